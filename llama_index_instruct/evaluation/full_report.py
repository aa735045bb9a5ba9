"""Every bench with its peers, on whatever data there is: report.md, report.json and pictures."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.evaluation.datasets import RetrievalSet, load_beir
from llama_index_instruct.evaluation.drawing import draw_documents, draw_queries, draw_texts
from llama_index_instruct.evaluation.facets import FacetedCorpus, load_facets
from llama_index_instruct.evaluation.markdown import as_markdown
from llama_index_instruct.evaluation.mining_bench import load_planted, shipped_planted
from llama_index_instruct.evaluation.section_runs import FULL, QUICK, Materials, Sizes
from llama_index_instruct.evaluation.sections import SECTIONS, Section
from llama_index_instruct.evaluation.timing import ForeignLoad, machine_line

LAYOUT = {
    "retrieval": "retrieval/*/",
    "facets": "facets/*/",
    "triplets": "triplets/*/*.jsonl.gz",
    "planted": "planted/*.jsonl",
}


@dataclass(frozen=True)
class ReportSettings:
    """Settings of a report.

    Attributes:
        quick: Take a little of everything, to see that it works.
        only: Names of sections; empty = all.
        seed: Of everything that is drawn.
        cross_encoder: Folder or name of a reranking model; None = none is at hand.
        command: That makes this report, as one would type it.
        today: Printed in the place of the clock's date.
    """

    quick: bool = False
    only: tuple[str, ...] = ()
    seed: int = 0
    cross_encoder: str | None = None
    command: str = ""
    today: date | None = None

    def __post_init__(self) -> None:
        known = [section.name for section in SECTIONS]
        if set(self.only) - set(known):
            raise ConfigurationError(f"only: expected some of {', '.join(known)}, found {', '.join(self.only)}")


def write_full_report(
    data: Path,
    output: Path,
    embed_model: BaseEmbedding,
    settings: ReportSettings,
    *,
    cache: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Run the sections, write ``report.md``, ``report.json`` and the pictures, and return the report.

    What is written grows section by section, so that a killed run leaves what it had.

    Args:
        data: Folder with ``retrieval/*/``, ``facets/*/``, ``triplets/*/*.jsonl.gz`` and ``planted/*.jsonl``; whatever is
            absent is left out, and the report says so. In a checkout the shipped planted questions stand in for absent ones.
        output: Folder, made if need be.
        embed_model: Embeds queries and documents.
        settings: What is run.
        cache: Folder that keeps the vectors between runs; None = only for this one.
        progress: Show progress bars.

    Raises:
        ConfigurationError: If the data has none of these, or a part of it is malformed.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as own_cache:
        given = _materials(data, embed_model, settings, cache or Path(own_cache), progress)
        report: dict[str, Any] = {
            "machine": machine_line(settings.today),
            "command": settings.command,
            "settings": {**asdict(settings), "today": None, "sizes": asdict(given.sizes)},
            "data": _described(given),
            "left_out": {},
            "sections": {},
        }
        for section in SECTIONS:
            if settings.only and section.name not in settings.only:
                continue
            if not any(getattr(given, need) for need in section.needs):
                layouts = " or ".join(LAYOUT[need] for need in section.needs)
                report["left_out"][section.name] = f"no {layouts} in the data"
            else:
                report["sections"][section.name] = _run(section, given, output)
            (output / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            (output / "report.md").write_text(report_markdown(report), encoding="utf-8")
    return report


def report_markdown(report: dict[str, Any]) -> str:
    """Return a report as Markdown; pictures lie beside it."""
    parts = [
        "# Report of llama-index-instruct",
        f"Machine: {report['machine']}. Seed {report['settings']['seed']}.",
        f"```bash\n{report['command']}\n```",
    ]
    if report["settings"]["quick"]:
        parts.append("**A quick run: a little of everything, to see that it works. Its numbers mean nothing.**")
    parts.append("\n".join(f"- {kind}: {found}" for kind, found in report["data"].items()))
    titles = {section.name: section.title for section in SECTIONS}
    parts += [f"Left out: {titles[name]} ({reason})." for name, reason in report["left_out"].items()]
    for section in SECTIONS:
        if section.name in report["sections"]:
            parts += _section_markdown(section, report["sections"][section.name], report)
    return "\n\n".join(parts) + "\n"


def _section_markdown(section: Section, found: dict[str, Any], report: dict[str, Any]) -> list[str]:
    others = "" if found["foreign_cpus"] is None else f", others kept {found['foreign_cpus']:.2f} processors busy"
    return [
        f"## {section.title}",
        section.words,
        as_markdown(lambda console: section.table(found["record"], console)),
        *(f"![{name}]({name})" for name in found["plots"]),
        f"n: {section.counts(found['record'])}. Seed {report['settings']['seed']}. {report['machine']}. "
        f"{found['seconds']:.0f} s, {found['cpu_seconds']:.0f} CPU s{others}.",
        f"```bash\n{report['command']} --only {section.name}\n```",
    ]


def _run(section: Section, given: Materials, output: Path) -> dict[str, Any]:
    start, cpu = time.perf_counter(), time.process_time()
    with ForeignLoad() as load:
        record = section.run(given)
    for name, draw in section.plots.items():
        draw(record, output / name)
    return {
        "record": record,
        "plots": list(section.plots),
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "foreign_cpus": load.cpus,
    }


def _materials(
    data: Path, embed_model: BaseEmbedding, settings: ReportSettings, cache: Path, progress: bool
) -> Materials:
    sizes = QUICK if settings.quick else FULL
    found = {kind: sorted(data.glob(pattern)) for kind, pattern in LAYOUT.items()}
    if not any(found.values()):
        raise ConfigurationError(f"{data}: expected {', '.join(LAYOUT.values())}, found none of them")
    return Materials(
        retrieval=[_drawn_set(load_beir(folder), sizes, settings.seed) for folder in found["retrieval"]],
        facets=[_drawn_corpus(load_facets(folder), sizes, settings.seed) for folder in found["facets"]],
        triplets=found["triplets"],
        planted=[row for path in found["planted"] or shipped_planted() for row in load_planted(path)],
        embed_model=embed_model,
        sizes=sizes,
        seed=settings.seed,
        cross_encoder=settings.cross_encoder,
        cache=cache,
        progress=progress,
    )


def _drawn_set(data: RetrievalSet, sizes: Sizes, seed: int) -> RetrievalSet:
    if sizes.set_queries is not None:
        data = draw_queries(data, sizes.set_queries, seed)
    return data if sizes.documents is None else draw_documents(data, sizes.documents, seed)


def _drawn_corpus(corpus: FacetedCorpus, sizes: Sizes, seed: int) -> FacetedCorpus:
    return corpus if sizes.texts is None else draw_texts(corpus, sizes.texts, seed)


def _described(given: Materials) -> dict[str, str]:
    def listed(items: Sequence[Any], name: Callable[[Any], str]) -> str:
        return "; ".join(map(name, items)) or "none found"

    return {
        "retrieval": listed(
            given.retrieval, lambda d: f"{d.name}, {len(d.queries)} queries, {len(d.documents)} documents"
        ),
        "facets": listed(given.facets, lambda c: f"{c.name}, {len(c.texts)} texts, {len(c.facets)} facets"),
        "triplets": listed(given.triplets, lambda path: path.parent.name),
        "planted": f"{len(given.planted)} questions",
    }
