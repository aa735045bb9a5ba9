"""``llama-index-instruct bench ...``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from llama_index_instruct.cli.bench_all import bench_all_command
from llama_index_instruct.cli.bench_incontext import (
    bench_incontext_command,
    bench_mining_command,
    bench_recipe_command,
    bench_steering_command,
)
from llama_index_instruct.cli.options import (
    EMBED_HELP,
    LLM_BASE_HELP,
    LLM_HELP,
    comma_separated,
    console,
    errors_as_messages,
    openai_like,
    write_and_show,
    write_record,
)

BENCH_MODEL_HELP = (
    "'inbedder-minilm', 'minilm' (blind), a folder or a Hub name; 'prefix:NAME' writes the instruction before the text of a "
    "sentence encoder, 'centered:NAME' subtracts an InBedder's mean; repeat for several."
)
DEFAULT_BENCH_MODELS = ("minilm", "prefix:minilm", "inbedder-minilm")

bench_app = typer.Typer(help="Measure against what people use today.", no_args_is_help=True)
bench_app.command("all")(bench_all_command)
bench_app.command("incontext")(bench_incontext_command)
bench_app.command("recipe")(bench_recipe_command)
bench_app.command("steering")(bench_steering_command)
bench_app.command("mining")(bench_mining_command)


@bench_app.command("refinement")
def bench_refinement_command(
    data: Annotated[list[Path], typer.Option(help="BEIR-style folder; repeat for several.")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
    judge: Annotated[str, typer.Option(help="'gold', or 'llm' with --llm.")] = "gold",
    flip: Annotated[float, typer.Option(help="Probability that a gold judgement is turned over.")] = 0.0,
    judged: Annotated[int, typer.Option(help="Judgements per query.")] = 20,
    rounds: Annotated[int, typer.Option(help="Rounds they are spread over.")] = 2,
    embed_model: Annotated[str, typer.Option(help=EMBED_HELP)] = "minilm",
    methods: Annotated[str, typer.Option(help="Comma-separated; default: all.")] = "",
    seed: Annotated[int, typer.Option(help="Of the turned judgements.")] = 0,
    llm: Annotated[str | None, typer.Option(help=LLM_HELP)] = None,
    llm_base: Annotated[str | None, typer.Option(help=LLM_BASE_HELP)] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps encoded texts between runs.")] = None,
    speed: Annotated[bool, typer.Option(help="Also time the solvers, as ratios.")] = True,
) -> None:
    """Refinement and its peers on retrieval sets: MAP, nDCG@10, judgements, queries made worse, solve time."""
    from llama_index_instruct.errors import ConfigurationError
    from llama_index_instruct.evaluation.bench import RefinementBench, bench_refinement
    from llama_index_instruct.evaluation.datasets import load_beir
    from llama_index_instruct.evaluation.peers import PEERS
    from llama_index_instruct.evaluation.report import refinement_table
    from llama_index_instruct.evaluation.speed import bench_solver_speed
    from llama_index_instruct.models import load_embed_model
    from llama_index_instruct.teacher.judge import RelevanceJudge

    with errors_as_messages():
        model = openai_like(llm, llm_base)
        if (judge == "llm") != (model is not None):
            raise ConfigurationError("judge: expected --judge llm together with --llm MODEL, or --judge gold")
        chosen = comma_separated(methods) or tuple(PEERS)
        settings = RefinementBench(
            judge=judge if model is None else RelevanceJudge(model),
            flip=flip,
            judged=judged,
            rounds=rounds,
            methods=chosen,
            seed=seed,
        )
        sets = [load_beir(folder) for folder in data]
        record = bench_refinement(sets, load_embed_model(embed_model), settings, cache=cache)
        if speed:
            record["solver_speed"] = bench_solver_speed(judged=max(judged, 2))
        write_and_show(record, output, refinement_table)


@bench_app.command("gstransform")
def bench_gstransform_command(
    data: Annotated[list[Path], typer.Option(help="Folder of a faceted corpus; repeat for several.")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
    labels: Annotated[str, typer.Option(help="'gold', or 'clusters:MODEL', an InBedder's clusters.")] = "gold",
    clusters: Annotated[int, typer.Option(help="How many, with --labels clusters:MODEL.")] = 50,
    sample: Annotated[int, typer.Option(help="Labelled texts; half the rows of small facets.")] = 3000,
    flip: Annotated[float, typer.Option(help="Share of labels replaced by wrong ones.")] = 0.0,
    embed_model: Annotated[str, typer.Option(help=EMBED_HELP)] = "minilm",
    methods: Annotated[str, typer.Option(help="Comma-separated; default: all.")] = "",
    seed: Annotated[int, typer.Option(help="Of split, flips and triplets.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps encoded texts between runs.")] = None,
) -> None:
    """GSTransform and its peers on faceted corpora: NMI, triplets, precision at 10 and 100, fitting time."""
    from llama_index_instruct.evaluation.facets import load_facets
    from llama_index_instruct.evaluation.gstransform_bench import METHODS, GSTransformBench, bench_gstransform
    from llama_index_instruct.evaluation.report import gstransform_table
    from llama_index_instruct.models import load_embed_model

    with errors_as_messages():
        chosen = comma_separated(methods) or tuple(METHODS)
        settings = GSTransformBench(
            labels=labels, clusters=clusters, sample=sample, flip=flip, methods=chosen, seed=seed
        )
        corpora = [load_facets(folder) for folder in data]
        record = bench_gstransform(corpora, load_embed_model(embed_model), settings, cache=cache)
        write_and_show(record, output, gstransform_table)


@bench_app.command("inbedder")
def bench_inbedder_command(
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
    triplets: Annotated[Path | None, typer.Option(help="JSONL file of triplets.")] = None,
    facets: Annotated[list[Path] | None, typer.Option(help="Folder of a faceted corpus; repeat for several.")] = None,
    model: Annotated[list[str] | None, typer.Option(help=BENCH_MODEL_HELP)] = None,
    rows: Annotated[int, typer.Option(help="Most texts of a facet that are clustered.")] = 2000,
    per_pair: Annotated[int | None, typer.Option(help="Most triplets per pair of facets; default: all.")] = None,
    wordings: Annotated[
        Path | None, typer.Option(help="JSON with paraphrases and wrong questions, to ask instead.")
    ] = None,
    speed: Annotated[bool, typer.Option(help="Also time the models, as ratios.")] = True,
    seed: Annotated[int, typer.Option(help="Of drawn texts and k-means.")] = 0,
) -> None:
    """Do the vectors follow the instruction: triplets, clusters by v-measure, other wordings, speed."""
    from llama_index_instruct.errors import ConfigurationError
    from llama_index_instruct.evaluation.facets import load_facets
    from llama_index_instruct.evaluation.inbedder_bench import InBedderBench, bench_inbedder, load_wordings
    from llama_index_instruct.evaluation.report import inbedder_table
    from llama_index_instruct.evaluation.triplets import load_triplets

    with errors_as_messages():
        if triplets is None and not facets:
            raise ConfigurationError("expected --triplets FILE or --facets DIR, found neither")
        settings = InBedderBench(models=tuple(model or DEFAULT_BENCH_MODELS), rows=rows, seed=seed)
        record = bench_inbedder(
            load_triplets(triplets, per_pair=per_pair) if triplets else [],
            [load_facets(folder) for folder in facets or []],
            settings,
            wordings=load_wordings(wordings) if wordings else None,
            speed=speed,
        )
        write_and_show(record, output, inbedder_table)


@bench_app.command("latency")
def bench_latency_command(
    delay: Annotated[float, typer.Option(help="Seconds a judgement takes.")] = 0.2,
    documents: Annotated[int, typer.Option(help="Random vectors in the collection.")] = 5_000,
    judged: Annotated[int, typer.Option(help="Judgements per query.")] = 20,
    rounds: Annotated[int, typer.Option(help="Rounds they are spread over.")] = 2,
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Wall time of plain and refined retrieves with a judge of a known delay, synchronous and asynchronous."""
    from llama_index_instruct.evaluation.latency import bench_latency

    with errors_as_messages():
        record = bench_latency(delay=delay, documents=documents, judged=judged, rounds=rounds)
        console.print_json(json.dumps(record))
        if output is not None:
            write_record(record, output)


@bench_app.command("collection")
def bench_collection_command(
    points: Annotated[int, typer.Option(help="In the collection.")] = 20_000,
    dimension: Annotated[int, typer.Option(help="Of the vectors.")] = 384,
    rounds: Annotated[int, typer.Option(help="Interleaved repetitions.")] = 3,
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Rate of transforming a whole collection, against a bare loop and the bare product."""
    from llama_index_instruct.evaluation.collection_bench import bench_collection

    with errors_as_messages():
        record = bench_collection(points=points, dimension=dimension, rounds=rounds)
        console.print_json(json.dumps(record))
        if output is not None:
            write_record(record, output)


@bench_app.command("load")
def bench_load_command(
    retrieves: Annotated[int, typer.Option(help="Refined retrieves in all.")] = 10_000,
    failure_rate: Annotated[float, typer.Option(help="Share of the judge's calls that fail.")] = 0.02,
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Thousands of refined retrieves, sync and async, with a judge that keeps failing: lost hits, memory, threads, files."""
    from llama_index_instruct.evaluation.load_run import run_load

    with errors_as_messages():
        record = run_load(retrieves=retrieves, failure_rate=failure_rate)
        console.print_json(json.dumps(record))
        if output is not None:
            write_record(record, output)
