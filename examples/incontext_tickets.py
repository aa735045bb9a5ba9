"""Task and worked examples before the query: what the calls are, and what is computed once.

Run: .venv/bin/python examples/incontext_tickets.py [--model FOLDER_OR_HUB_NAME]
Without --model a stand-in is made of all-MiniLM-L6-v2, read from left to right: nobody trained it for examples, so its ranking
means nothing. A decoder that was: annamodels/LGAI-Embedding-Preview (seven billion parameters), or what train_incontext makes.
"""

import argparse
import tempfile
import time
from pathlib import Path

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

from llama_index_instruct import InContextEmbedding, nearest_examples
from llama_index_instruct.evaluation.datasets import load_tickets
from llama_index_instruct.evaluation.steering import as_decoder
from llama_index_instruct.models import load_embed_model

TASK = "Given a complaint, find the product it is about."
QUERIES = ["no sound since the update", "it prints half a page", "I cannot sign in"]

parser = argparse.ArgumentParser()
parser.add_argument("--model")
options = parser.parse_args()
if options.model is None:
    print("No --model given: MiniLM's weights, read from left to right, stand in for a decoder.\n")

tickets, _ = load_tickets(Path(__file__).parent / "data")
products = sorted({ticket.facets["product"] for ticket in tickets})

with tempfile.TemporaryDirectory() as folder:
    model = options.model or str(as_decoder("minilm", Path(folder) / "decoder"))

    # Examples are picked per task, not per query: so what all queries begin with is computed once.
    pool = [(" ".join(ticket.text.split()[:20]), ticket.facets["product"]) for ticket in tickets[:60]]
    examples = nearest_examples(pool, QUERIES, load_embed_model("minilm"), count=3)
    embedding = InContextEmbedding(model, task=TASK, examples=examples)
    for query, answer in embedding.examples:
        print(f"example: {query} -> {answer}")

    # Passages are read as they are: with_task changes the queries only, and the index stays.
    index = VectorStoreIndex([TextNode(text=product) for product in products], embed_model=embedding)
    for name, asking in (("examples", embedding), ("no examples", embedding.with_task(TASK))):
        retriever = index.as_retriever(similarity_top_k=3, embed_model=asking)
        print(f"{name}: {', '.join(hit.text for hit in retriever.retrieve(QUERIES[1]))}")

    for moment in ("the shared beginning included", "reused"):
        start = time.perf_counter()
        embedding.get_query_embedding(QUERIES[0])
        print(f"a query in {1000 * (time.perf_counter() - start):.0f} ms, {moment}")
