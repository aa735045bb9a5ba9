"""The demo's third part: one small model, two questions about the same messages, and its answers as labels without an LLM."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llama_index_instruct.evaluation.datasets import Ticket
from llama_index_instruct.evaluation.geometry import clustering_nmi, neighbour_precision
from llama_index_instruct.gstransform.pipeline import fit_gstransform
from llama_index_instruct.gstransform.sources import ClusterLabels
from llama_index_instruct.inbedder.embedding import InBedderEmbedding
from llama_index_instruct.rows import unit_rows
from llama_index_instruct.vectors import stored_vectors

QUESTIONS = {"product": "Which product is this about?", "feeling": "How does the writer feel?"}
SHOWN = 3
CLUSTERS = 20


def run_inbedder_demo(console: Console, index: VectorStoreIndex, tickets: Sequence[Ticket]) -> dict[str, float]:
    """Answer, cluster and search the tickets under two questions, then teach the stored vectors by the model's clusters.

    Args:
        console: Where to print.
        index: The tickets, as the first part of the demo stored them.
        tickets: Their labels, used for the scores only.

    Returns:
        NMI in percent per question: ``product_stored``, ``product_inbedder``, ``product_taught``, and so for ``feeling``.
    """
    console.print(
        "\n[bold]The answer is the embedding[/bold] (InBedder): a 22-million-parameter model that comes with this package "
        "embeds what it would answer. No LLM, no labels; the corpus's own serve for the scores."
    )
    model = InBedderEmbedding()
    hits = index.as_retriever(similarity_top_k=len(tickets)).retrieve("message")
    by_ticket = {hit.node.metadata["ticket"]: hit.node for hit in hits}
    nodes = [by_ticket[ticket.id] for ticket in tickets]
    stored = stored_vectors(nodes, index.vector_store)
    scores: dict[str, float] = {}
    table = Table(title="Same messages, same model, two questions (percent)", title_justify="left")
    for column in ("question", "vectors", "NMI", "p@10"):
        table.add_column(column, justify="left" if column in ("question", "vectors") else "right")
    for facet, question in QUESTIONS.items():
        asking = model.with_instruction(question)
        asking.embeddings_cache = SimpleKVStore()  # texts are embedded once, for the index and for the clusters
        vectors = np.array(asking.get_text_embedding_batch([ticket.text for ticket in tickets]), dtype=np.float32)
        taught = fit_gstransform(
            nodes,
            instruction=question,
            labels=ClusterLabels(asking, CLUSTERS),
            embed_model=index._embed_model,
            vector_store=index.vector_store,
        )
        codes = np.unique([ticket.facets[facet] for ticket in tickets], return_inverse=True)[1].astype(np.intp)
        ways = {"stored": stored, "inbedder": vectors, "taught": taught.transform(stored)}
        for way, rows in ways.items():
            unit = unit_rows(rows)
            scores[f"{facet}_{way}"] = 100.0 * clustering_nmi(unit, codes)
            precision = 100.0 * neighbour_precision(unit, unit, codes, 10)
            table.add_row(question, NAMES[way], f"{scores[f'{facet}_{way}']:.1f}", f"{precision:.1f}")
        console.print(_search_table(asking, tickets, vectors))
    console.print(table)
    return scores


NAMES = {
    "stored": "stored (all-MiniLM-L6-v2)",
    "inbedder": "InBedder",
    "taught": "stored, GSTransform fitted on InBedder's clusters",
}


def _search_table(asking: InBedderEmbedding, tickets: Sequence[Ticket], vectors: npt.NDArray[np.float32]) -> Table:
    """Search an index of the answers for one message, and show what the model answers about each hit."""
    store = QdrantVectorStore("answers", client=QdrantClient(":memory:"))
    nodes = [
        TextNode(text=ticket.text, id_=_node_id(row), embedding=vectors[row].tolist())
        for row, ticket in enumerate(tickets)
    ]
    index = VectorStoreIndex(
        nodes, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=asking
    )
    asked = tickets[0].text
    hits = [hit for hit in index.as_retriever(similarity_top_k=SHOWN + 1).retrieve(asked) if hit.text != asked][:SHOWN]
    texts = [asked, *(hit.text for hit in hits)]
    table = Table(title=f'"{asking.instruction}": nearest to the first message', title_justify="left", expand=True)
    table.add_column("the model answers", no_wrap=True)
    table.add_column("message", no_wrap=True, overflow="ellipsis", ratio=1)
    for text, answer in zip(texts, asking.answer(texts), strict=True):
        table.add_row(escape(answer), escape(" ".join(text.split())))
    return table


def _node_id(row: int) -> str:
    return f"00000000-0000-0000-0000-{row:012d}"
