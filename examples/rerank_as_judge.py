"""What can judge in an LLM's place: a LlamaIndex node postprocessor, or any function.

Run: .venv/bin/python examples/rerank_as_judge.py [--llm MODEL --llm-base URL]; the key is read from OPENAI_API_KEY.
With --llm LlamaIndex's LLMRerank judges too.
"""

import argparse
from pathlib import Path

from llama_index.core.postprocessor import LLMRerank
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_instruct import RefinementRetriever
from llama_index_instruct.cli.options import openai_like
from llama_index_instruct.evaluation.datasets import load_tickets
from llama_index_instruct.evaluation.demo import ticket_index


class AngerRerank(BaseNodePostprocessor):
    """Stands for a cross-encoder such as SentenceTransformerRerank: it scores, the retriever does the rest."""

    words: tuple[str, ...] = ("furious", "outrage", "shame", "unacceptable", "disgrace", "!", "demand", "liar")

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        for hit in nodes:
            text = hit.node.get_content().lower()
            hit.score = min(1.0, 0.34 * sum(word in text for word in self.words))
        return sorted(nodes, key=lambda hit: -(hit.score or 0.0))


def shouting(query: str, passages: list[str]) -> list[float]:
    """A plain function does as well."""
    return [min(1.0, passage.count("!") / 2) for passage in passages]


parser = argparse.ArgumentParser()
parser.add_argument("--llm")
parser.add_argument("--llm-base")
options = parser.parse_args()
tickets, _ = load_tickets(Path(__file__).parent / "data")
index = ticket_index(tickets)
judges = {"a postprocessor": AngerRerank(), "a function": shouting}
if llm := openai_like(options.llm, options.llm_base):
    judges["LLMRerank"] = LLMRerank(llm=llm, top_n=20)
for name, judge in judges.items():
    retriever = RefinementRetriever(index.as_retriever(similarity_top_k=20), judge=judge)
    trace = retriever.refine("complaint about a delivery")
    for title, hits in (("plain", trace.plain_nodes), ("refined", trace.nodes)):
        angry = sum(hit.node.metadata["feeling"] == "angry" for hit in hits)
        print(f"{name:15} {title:8} {angry} of {len(hits)} written in anger")
