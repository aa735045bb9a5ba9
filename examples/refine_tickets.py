"""Rank customer messages by what you ask for, not by topic.

Run: .venv/bin/python examples/refine_tickets.py [--llm MODEL --llm-base URL]; the key is read from OPENAI_API_KEY.
"""

import argparse
from pathlib import Path

from llama_index_instruct import RefinementRetriever, RelevanceJudge
from llama_index_instruct.cli.options import openai_like
from llama_index_instruct.evaluation.datasets import load_tickets
from llama_index_instruct.evaluation.demo import label_judge, ticket_index

parser = argparse.ArgumentParser()
parser.add_argument("--llm")
parser.add_argument("--llm-base")
options = parser.parse_args()

tickets, queries = load_tickets(Path(__file__).parent / "data")
query = next(query for query in queries if "cannot sign in" in query.text)
index = ticket_index(tickets)

if llm := openai_like(options.llm, options.llm_base):
    judge = RelevanceJudge(llm, task="the message fulfils every part of the request")
else:
    print("No --llm given: the corpus's own labels answer for the judge.\n")
    judge = label_judge(tickets, query)

retriever = RefinementRetriever(index.as_retriever(similarity_top_k=6), judge=judge)
trace = retriever.refine(query.text)

for title, hits in (("plain", trace.plain_nodes), ("refined", trace.nodes)):
    print(f"{title}: {query.text}")
    for hit in hits:
        mark = "+" if hit.node.metadata["ticket"] in query.relevant else "-"
        print(f"  {mark} {hit.score:.3f} {' '.join(hit.node.get_content().split())[:90]}")
print(f"\nturned by {trace.angle:.2f} rad after {len(trace.judgements)} judgements; {trace.usage}")
print({stage: round(ms, 1) for stage, ms in trace.ms.items()})
