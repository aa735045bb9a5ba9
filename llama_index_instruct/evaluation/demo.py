"""The demo: the shipped tickets in an in-process Qdrant, searched plainly and refined."""

from __future__ import annotations

import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.llms.llm import LLM
from llama_index.core.schema import NodeWithScore, TextNode
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm.auto import tqdm

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.evaluation.datasets import SHIPPED_DATA, Ticket, TicketQuery, load_tickets
from llama_index_instruct.evaluation.demo_gstransform import run_gstransform_demo
from llama_index_instruct.evaluation.demo_inbedder import run_inbedder_demo
from llama_index_instruct.evaluation.metrics import ranking_measures
from llama_index_instruct.evaluation.peers import CANDIDATES
from llama_index_instruct.models import load_embed_model
from llama_index_instruct.refinement.retriever import RefinementRetriever
from llama_index_instruct.refinement.trace import RefinementTrace
from llama_index_instruct.teacher.judge import RelevanceJudge

SHOWN_QUERIES = 4
SHOWN_HITS = 8


def run_demo(
    console: Console,
    *,
    folder: Path | None = None,
    llm: LLM | None = None,
    embed_model_name: str = "minilm",
    judged: int = 20,
    rounds: int = 2,
    picture: Path = Path("demo-gstransform.png"),
) -> dict[str, float]:
    """Index the tickets, search them plainly and refined, then under three instructions; print what changed.

    Args:
        console: Where to print.
        folder: With ``tickets.jsonl`` and ``queries.jsonl``; None looks for ``examples/data``.
        llm: Judges the tickets; None = their own labels answer.
        embed_model_name: See ``models.load_embed_model``.
        judged: Judgements per query.
        rounds: Rounds they are spread over.
        picture: Where the scatter plots of the second part go.

    Returns:
        Mean ``map_plain`` and ``map_refined``, ``judgements`` and ``milliseconds`` per query; and what
        ``run_gstransform_demo`` and ``run_inbedder_demo`` return.

    Raises:
        ConfigurationError: If the data is not found.
    """
    tickets, queries = load_tickets(_find_data(folder))
    console.print(
        f"[bold]Indexing {len(tickets)} customer messages[/bold] with {embed_model_name} into an in-process Qdrant."
    )
    if llm is None:
        console.print(
            "[yellow]No LLM is configured: the judge answers from the corpus's own labels.[/yellow] That is a perfect judge; a "
            "real one errs. Use one with --llm MODEL (any OpenAI-compatible endpoint)."
        )
    else:
        console.print(f"Judge: {llm.metadata.model_name}, one question per passage.")
    index = ticket_index(tickets, embed_model_name)
    llm_judge = None if llm is None else RelevanceJudge(llm, task="the message fulfils every part of the request")
    traces: list[RefinementTrace] = []
    elapsed: list[float] = []
    for query in tqdm(queries, desc="searching plainly and refined"):
        retriever = RefinementRetriever(
            index.as_retriever(similarity_top_k=len(tickets)),
            judge=llm_judge or label_judge(tickets, query),
            judged=judged,
            rounds=rounds,
            candidates=max(CANDIDATES, judged),
            judge_deadline=None if llm is None else 60.0,
        )
        start = time.perf_counter()
        traces.append(retriever.refine(query.text))
        elapsed.append(1000.0 * (time.perf_counter() - start))
    before = _average_precision([trace.plain_nodes for trace in traces], tickets, queries)
    after = _average_precision([trace.nodes for trace in traces], tickets, queries)
    for q in _most_telling(before, after):
        console.print(_query_table(queries[q], traces[q], before[q], after[q]))
    console.print(_summary_table(queries, traces, before, after, elapsed))
    summary = {
        "map_plain": float(np.mean(before)),
        "map_refined": float(np.mean(after)),
        "judgements": float(np.mean([len(trace.judgements) for trace in traces])),
        "milliseconds": float(np.mean(elapsed)),
    }
    console.print(
        f"[bold]Mean MAP over {len(queries)} queries: {summary['map_plain']:.3f} plain, {summary['map_refined']:.3f} "
        f"refined[/bold], with {summary['judgements']:.0f} judgements of {len(tickets)} messages and "
        f"{summary['milliseconds']:.0f} ms a query (the two searches, the vectors, the judge and the solve)."
    )
    summary |= run_gstransform_demo(console, index, tickets, llm=llm, picture=picture)
    return summary | run_inbedder_demo(console, index, tickets)


def ticket_index(tickets: Sequence[Ticket], embed_model_name: str = "minilm") -> VectorStoreIndex:
    """Return the tickets in an in-process Qdrant behind a LlamaIndex index; labels are metadata no model sees."""
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    nodes = []
    for ticket in tickets:
        node = TextNode(
            text=ticket.text,
            id_=str(uuid.uuid5(uuid.NAMESPACE_OID, ticket.id)),
            metadata={"ticket": ticket.id, **ticket.facets},
        )
        node.excluded_embed_metadata_keys = list(node.metadata)
        node.excluded_llm_metadata_keys = list(node.metadata)
        nodes.append(node)
    with warnings.catch_warnings():
        # The store asks for a payload index, which the in-process Qdrant says it does not need.
        warnings.filterwarnings("ignore", message="Payload indexes have no effect", category=UserWarning)
        store = QdrantVectorStore(collection_name="tickets", client=QdrantClient(":memory:"))
        return VectorStoreIndex(
            nodes,
            storage_context=StorageContext.from_defaults(vector_store=store),
            embed_model=load_embed_model(embed_model_name),
            show_progress=True,
        )


def label_judge(tickets: Sequence[Ticket], query: TicketQuery) -> Callable[[str, list[str]], list[float]]:
    """Return a judge that answers one query from the labels, in the place of an LLM."""
    relevant = {ticket.text for ticket in tickets if ticket.id in query.relevant}

    def judge(_: str, passages: list[str]) -> list[float]:
        return [float(passage in relevant) for passage in passages]

    return judge


def _find_data(folder: Path | None) -> Path:
    places = [folder] if folder else [Path("examples/data"), SHIPPED_DATA]
    for place in places:
        if (place / "tickets.jsonl").is_file():
            return place
    raise ConfigurationError(f"data: expected tickets.jsonl in {' or '.join(map(str, places))}; give --data FOLDER")


def _average_precision(
    rankings: Sequence[Sequence[NodeWithScore]], tickets: Sequence[Ticket], queries: Sequence[TicketQuery]
) -> list[float]:
    row_of = {ticket.id: row for row, ticket in enumerate(tickets)}
    rows = [np.array([row_of[hit.node.metadata["ticket"]] for hit in hits]) for hits in rankings]
    relevant = [np.array(sorted(row_of[id_] for id_ in query.relevant)) for query in queries]
    return [float(value) for value in ranking_measures(rows, relevant)["map"]]


def _most_telling(before: Sequence[float], after: Sequence[float]) -> list[int]:
    """Return the largest gain, the smallest, and two between, so that the demo does not only show off."""
    by_gain = sorted(range(len(before)), key=lambda q: before[q] - after[q])
    places = np.linspace(0, len(by_gain) - 1, SHOWN_QUERIES).astype(int)
    return [by_gain[place] for place in places]


def _query_table(query: TicketQuery, trace: RefinementTrace, before: float, after: float) -> Table:
    turned = f"query turned by {trace.angle:.2f} rad" if trace.changed else f"nothing changed: {trace.reason}"
    table = Table(title=f'"{query.text}"  AP {before:.2f} -> {after:.2f}; {turned}', title_justify="left", expand=True)
    table.add_column("rank before", justify="right", no_wrap=True)
    table.add_column("rank after", justify="right", no_wrap=True)
    table.add_column("relevant", no_wrap=True)
    table.add_column("message", no_wrap=True, overflow="ellipsis", ratio=1)
    old = {hit.node.node_id: place for place, hit in enumerate(trace.plain_nodes, start=1)}
    for place, hit in enumerate(trace.nodes[:SHOWN_HITS], start=1):
        relevant = hit.node.metadata["ticket"] in query.relevant
        table.add_row(
            str(old[hit.node.node_id]),
            str(place),
            "[green]yes[/green]" if relevant else "no",
            escape(" ".join(hit.node.get_content().split())),
        )
    return table


def _summary_table(
    queries: Sequence[TicketQuery],
    traces: Sequence[RefinementTrace],
    before: Sequence[float],
    after: Sequence[float],
    elapsed: Sequence[float],
) -> Table:
    table = Table(title="All queries", title_justify="left")
    for column in ("query", "relevant", "AP plain", "AP refined", "judged", "ms"):
        table.add_column(column, justify="left" if column == "query" else "right")
    for query, trace, low, high, ms in zip(queries, traces, before, after, elapsed, strict=True):
        table.add_row(
            query.text,
            str(len(query.relevant)),
            f"{low:.2f}",
            f"{high:.2f}",
            str(len(trace.judgements)),
            f"{ms:.0f}",
        )
    return table
