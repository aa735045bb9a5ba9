"""The demo's second part: the same stored vectors, ranked and clustered under three instructions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from llama_index.core import VectorStoreIndex
from llama_index.core.llms.llm import LLM
from llama_index.core.schema import NodeWithScore
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sklearn.manifold import TSNE

from llama_index_instruct.evaluation.datasets import Ticket
from llama_index_instruct.evaluation.geometry import clustering_nmi, neighbour_precision
from llama_index_instruct.evaluation.plots import Panel, save_scatter
from llama_index_instruct.evaluation.threads import one_thread
from llama_index_instruct.gstransform.pipeline import fit_gstransform
from llama_index_instruct.gstransform.retriever import GSTransformRetriever
from llama_index_instruct.gstransform.sources import LabelSource, LLMLabels, MetadataLabels
from llama_index_instruct.gstransform.transform import GSTransform
from llama_index_instruct.rows import unit_rows
from llama_index_instruct.vectors import stored_vectors

INSTRUCTIONS = {
    "product": "Which product is the message about?",
    "issue": "What went wrong?",
    "request": "What does the writer want to happen?",
}
SHOWN = 3
PERPLEXITY = 15


def run_gstransform_demo(
    console: Console, index: VectorStoreIndex, tickets: Sequence[Ticket], *, llm: LLM | None, picture: Path
) -> dict[str, float]:
    """Fit three transforms on half of the stored tickets, score them on the other half, search with them, draw them.

    Args:
        console: Where to print.
        index: The tickets, as the first part of the demo stored them.
        tickets: Their labels.
        llm: Labels the tickets from the instruction; None = the corpus's own labels do.
        picture: Where the scatter plots go.

    Returns:
        ``nmi_before``, ``nmi_after``, ``p10_before`` and ``p10_after``, means over the three facets, in percent.
    """
    console.print(
        f"\n[bold]Three instructions on the vectors already stored[/bold] (GSTransform): each is fitted on {len(tickets) // 2} "
        "labelled messages, sees the vectors of the others without labels, and is scored on those; nothing is encoded again."
    )
    if llm is None:
        console.print(
            "[yellow]Labels: the corpus's own.[/yellow] With --llm the model makes them from the instruction alone."
        )
    order = np.random.default_rng(0).permutation(len(tickets))
    nodes = [hit.node for hit in _all_hits(index, len(tickets))]
    by_ticket = {node.metadata["ticket"]: node for node in nodes}
    taught = [by_ticket[tickets[row].id] for row in order[: len(tickets) // 2]]
    others = [tickets[row] for row in order[len(tickets) // 2 :]]
    vectors = stored_vectors([by_ticket[ticket.id] for ticket in others], index.vector_store)
    table = Table(title="The other half of the messages, in percent", title_justify="left")
    for column in ("instruction", "told by the vectors", "NMI before", "NMI after", "p@10 before", "p@10 after"):
        table.add_column(column, justify="left" if column == "instruction" else "right")
    stored_map = _map(vectors)
    transforms: dict[str, GSTransform] = {}
    before: list[Panel] = []
    after: list[Panel] = []
    scores = []
    for facet, instruction in INSTRUCTIONS.items():
        source: LabelSource = (
            MetadataLabels(facet) if llm is None else LLMLabels(llm, index._embed_model, show_progress=True)
        )
        labels, _ = source.label(taught, instruction)
        transforms[facet] = fit_gstransform(
            nodes,
            instruction=instruction,
            labels={node.node_id: label for node, label in zip(taught, labels, strict=True)},
            embed_model=index._embed_model,
            vector_store=index.vector_store,
        )
        moved = transforms[facet].transform(vectors)
        names = [ticket.facets[facet] for ticket in others]
        codes = np.unique(names, return_inverse=True)[1].astype(np.intp)
        row = [
            100.0 * value
            for value in (
                clustering_nmi(vectors, codes),
                clustering_nmi(moved, codes),
                neighbour_precision(unit_rows(vectors), unit_rows(vectors), codes, 10),
                neighbour_precision(unit_rows(moved), unit_rows(moved), codes, 10),
            )
        ]
        scores.append(row)
        told = 100.0 * (transforms[facet].explained or 0.0)
        table.add_row(instruction, *(f"{value:.1f}" for value in (told, *row)))
        before.append(Panel(f"{instruction}\nstored vectors", stored_map, names))
        after.append(Panel("the same, transformed", _map(moved), names))
    console.print(table)
    console.print(_search_table(index, transforms, others[0]))
    save_scatter(before, after, picture, heading="The same stored vectors under three instructions")
    console.print(f"Picture, before and after: {picture}")
    means = np.mean(scores, axis=0)
    return dict(zip(("nmi_before", "nmi_after", "p10_before", "p10_after"), means.tolist(), strict=True))


def _all_hits(index: VectorStoreIndex, count: int) -> list[NodeWithScore]:
    return index.as_retriever(similarity_top_k=count).retrieve("message")


def _search_table(index: VectorStoreIndex, transforms: dict[str, GSTransform], asked: Ticket) -> Table:
    """Show what is nearest to one message, plainly and under each instruction."""
    text = " ".join(asked.text.split())
    table = Table(title=f'Nearest to: "{text[:140]}"', title_justify="left", expand=True)
    table.add_column("searched", no_wrap=True)
    table.add_column("label", no_wrap=True)
    table.add_column("message", no_wrap=True, overflow="ellipsis", ratio=1)
    retriever = GSTransformRetriever(index, transform=transforms, similarity_top_k=SHOWN + 1)
    found = {"plainly": index.as_retriever(similarity_top_k=SHOWN + 1).retrieve(asked.text)}
    found |= {facet: retriever.using(facet).retrieve(asked.text) for facet in transforms}
    for way, hits in found.items():
        for hit in [hit for hit in hits if hit.node.metadata["ticket"] != asked.id][:SHOWN]:
            label = "" if way == "plainly" else hit.node.metadata[way]
            right = label == asked.facets.get(way)
            shown = f"[green]{label}[/green]" if right else label
            table.add_row(
                way if way == "plainly" else f"by {way}", shown, escape(" ".join(hit.node.get_content().split()))
            )
    return table


def _map(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    # Threads would mostly wait for each other on so few points.
    with one_thread():
        points = TSNE(perplexity=PERPLEXITY, init="pca", metric="cosine", random_state=0).fit_transform(vectors)
    return np.asarray(points, dtype=np.float32)
