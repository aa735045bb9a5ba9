"""One instruction on vectors that are already stored: fit, re-rank, search, migrate.

Run: .venv/bin/python examples/gstransform_tickets.py [--llm MODEL --llm-base URL]; the key is read from OPENAI_API_KEY.
Without --llm the labels are the corpus's own; with it the LLM makes them from the instruction.
"""

import argparse
import tempfile
from pathlib import Path

from llama_index.core import VectorStoreIndex
from llama_index.vector_stores.qdrant import QdrantVectorStore

from llama_index_instruct import (
    GSTransform,
    GSTransformPostprocessor,
    GSTransformRetriever,
    MetadataLabels,
    TransformedEmbedding,
    fit_gstransform,
    transform_collection,
)
from llama_index_instruct.cli.options import openai_like
from llama_index_instruct.evaluation.datasets import load_tickets
from llama_index_instruct.evaluation.demo import ticket_index

INSTRUCTION = "What went wrong?"
QUERY = "my order came with the wrong thing in the box"

parser = argparse.ArgumentParser()
parser.add_argument("--llm")
parser.add_argument("--llm-base")
options = parser.parse_args()

tickets, _ = load_tickets(Path(__file__).parent / "data")
index = ticket_index(tickets)
embed_model = index._embed_model
llm = openai_like(options.llm, options.llm_base)

# Once per instruction: a sample of the collection is labelled, the map is fitted, and saved without pickle.
fitted = fit_gstransform(
    index,
    instruction=INSTRUCTION,
    llm=llm,
    labels=None if llm else MetadataLabels("issue"),
    embed_model=embed_model,
    sample=200,
    checkpoint="issue.answers" if llm else None,
)
folder = Path(tempfile.mkdtemp()) / "issue"
fitted.save_pretrained(folder)
transform = GSTransform.from_pretrained(folder)
print(f"{transform.info.labelling['summary']}; the vectors tell {transform.explained:.0%} of the labels")


def show(title: str, hits: list) -> None:
    print(f"{title:28}", ", ".join(hit.node.metadata["issue"] for hit in hits))


show("plain", index.as_retriever(similarity_top_k=8).retrieve(QUERY))

# In any query engine: more hits than needed, ordered by the instruction.
rerank = GSTransformPostprocessor(transform, vector_store=index.vector_store, embed_model=embed_model, top_n=8)
show(
    "postprocessor, best of 60",
    rerank.postprocess_nodes(index.as_retriever(similarity_top_k=60).retrieve(QUERY), query_str=QUERY),
)

# The whole, untouched collection in the geometry of the instruction.
show("retriever", GSTransformRetriever(index, transform=transform, similarity_top_k=8).retrieve(QUERY))

# A collection of its own, for exact search at any size and for new documents.
report = transform_collection(index.vector_store.client, "tickets", "tickets-by-issue", transform, progress=False)
store = QdrantVectorStore("tickets-by-issue", client=index.vector_store.client)
migrated = VectorStoreIndex.from_vector_store(store, embed_model=TransformedEmbedding(embed_model, transform))
show(f"migrated, {report.transformed} points", migrated.as_retriever(similarity_top_k=8).retrieve(QUERY))
