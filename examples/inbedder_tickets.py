"""Embed the same messages under two questions with the small model that comes with the package; no key, no network.

python examples/inbedder_tickets.py
"""

import json
from pathlib import Path

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from llama_index_instruct import InBedderEmbedding, fit_gstransform

DATA = Path(__file__).parent / "data"
QUESTIONS = {"product": "Which product is this about?", "feeling": "How does the writer feel?"}


def main() -> None:
    rows = [json.loads(line) for line in (DATA / "tickets.jsonl").read_text(encoding="utf-8").splitlines()][:60]
    client = QdrantClient(":memory:")
    model = InBedderEmbedding()
    for name, question in QUESTIONS.items():
        asking = model.with_instruction(question)  # the weights are shared
        nodes = [TextNode(text=row["text"], metadata={"ticket": row["_id"]}) for row in rows]
        for node in nodes:
            node.excluded_embed_metadata_keys = ["ticket"]
        store = QdrantVectorStore(name, client=client)
        index = VectorStoreIndex.from_vector_store(store, embed_model=asking)
        index.insert_nodes(nodes)
        hits = index.as_retriever(similarity_top_k=4).retrieve(rows[0]["text"])
        print(question)
        for hit, answer in zip(hits, asking.answer([hit.text for hit in hits]), strict=True):
            print(f"  {hit.score:.2f}  {answer:20}  {' '.join(hit.text.split())[:80]}")

    # The model's clusters as labels: vectors of any other model learn the question without an LLM.
    taught = fit_gstransform(nodes, instruction=QUESTIONS["feeling"], labels=model, clusters=10, vector_store=store)
    print(f"GSTransform from {len(taught.info.labels)} clusters, no LLM asked")


if __name__ == "__main__":
    main()
