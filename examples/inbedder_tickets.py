"""Embed the same messages under two questions with the small model that comes with the package; no key, no network.

Run: .venv/bin/python examples/inbedder_tickets.py [--llm MODEL --llm-base URL]; the key is read from OPENAI_API_KEY.
With --llm a real LLM answers the questions, and MiniLM embeds its answers.
"""

import argparse
import json
from pathlib import Path

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from llama_index_instruct import AnswerEmbedding, ClusterLabels, InBedderEmbedding, fit_gstransform
from llama_index_instruct.cli.options import openai_like
from llama_index_instruct.models import load_embed_model

DATA = Path(__file__).parent / "data"
QUESTIONS = {"product": "Which product is this about?", "feeling": "How does the writer feel?"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--llm")
    parser.add_argument("--llm-base")
    options = parser.parse_args()
    rows = [json.loads(line) for line in (DATA / "tickets.jsonl").read_text(encoding="utf-8").splitlines()][:60]
    client = QdrantClient(":memory:")
    llm = openai_like(options.llm, options.llm_base)
    model = InBedderEmbedding()
    for name, question in QUESTIONS.items():
        asking = model.with_instruction(question)  # the weights are shared
        if llm:
            asking = AnswerEmbedding(llm, load_embed_model("minilm"), question)
        nodes = [TextNode(text=row["text"], metadata={"ticket": row["_id"]}) for row in rows]
        for node in nodes:
            node.excluded_embed_metadata_keys = ["ticket"]
        store = QdrantVectorStore(name, client=client)
        index = VectorStoreIndex.from_vector_store(store, embed_model=asking)
        index.insert_nodes(nodes)
        hits = index.as_retriever(similarity_top_k=4).retrieve(rows[0]["text"])
        print(question)
        for hit, answer in zip(hits, asking.answer([hit.text for hit in hits]), strict=True):
            said = answer if isinstance(answer, str) else answer[0]  # an LLM may be asked for several
            print(f"  {hit.score:.2f}  {said:20}  {' '.join(hit.text.split())[:80]}")

    # Clusters under the question as labels: vectors of any other model learn it without a single label.
    taught = fit_gstransform(nodes, instruction=question, labels=ClusterLabels(asking, 10), vector_store=store)
    print(f"GSTransform from {len(taught.info.labels)} clusters")


if __name__ == "__main__":
    main()
