"""``llama-index-instruct bench incontext | recipe | steering | mining``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llama_index_instruct.cli.options import EMBED_HELP, comma_separated, errors_as_messages, write_and_show

TEACHER_HELP = "'similarity', 'hybrid', or 'cross-encoder:FOLDER'."
NATURAL = (
    "qamr,tweetqa,squadshifts_new_wiki,squadshifts_reddit,squadshifts_amazon_reviews,fairytaleqa,boolq,xquad_en,qed_nq,"
    "covidqa,pubmedqa"
)


def bench_incontext_command(
    data: Annotated[list[Path], typer.Option(help="BEIR-style folder; repeat for several.")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
    model: Annotated[list[str] | None, typer.Option(help="Decoder: folder or Hub name; repeat for several.")] = None,
    examples: Annotated[str, typer.Option(help="Numbers of examples, comma-separated.")] = "0,1,3,5",
    task: Annotated[str | None, typer.Option(help="What a query is to find, where it has no instruction.")] = None,
    template: Annotated[str, typer.Option(help="How a query is written down.")] = "lg-anna",
    peer: Annotated[str, typer.Option(help="Sentence encoder to compare with. " + EMBED_HELP)] = "minilm",
    seed: Annotated[int, typer.Option(help="Of the drawn examples.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps encoded passages between runs.")] = None,
    speed: Annotated[bool, typer.Option(help="Also time the reuse of the shared beginning, as ratios.")] = True,
) -> None:
    """In-context embeddings with so many examples in the prompt: MAP, nDCG@10, and queries per CPU second."""
    from llama_index_instruct.evaluation.datasets import load_beir
    from llama_index_instruct.evaluation.incontext_bench import TASK, InContextBench, bench_incontext
    from llama_index_instruct.evaluation.incontext_report import incontext_table

    with errors_as_messages():
        settings = InContextBench(
            models=tuple(model or ()),
            examples=tuple(_numbers(examples, "examples")),
            task=task or TASK,
            template=template,
            peer=peer,
            seed=seed,
        )
        record = bench_incontext([load_beir(folder) for folder in data], settings, cache=cache, speed=speed)
        write_and_show(record, output, incontext_table)


def bench_recipe_command(
    qa: Annotated[list[Path], typer.Option(help="JSONL of paragraph, question, answer, source; repeat for several.")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
    data: Annotated[list[Path] | None, typer.Option(help="BEIR-style folder to test on too; repeat.")] = None,
    sources: Annotated[str, typer.Option(help="Sources used, comma-separated; empty: all.")] = NATURAL,
    arms: Annotated[str, typer.Option(help="Comma-separated; default: all.")] = "",
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "0,1,2",
    questions: Annotated[int, typer.Option(help="To train on.")] = 1024,
    held_out: Annotated[int, typer.Option(help="To test on.")] = 1000,
    longest: Annotated[int, typer.Option(help="Most words of a paragraph.")] = 30,
    negatives: Annotated[int, typer.Option(help="Hard negatives per question.")] = 2,
    batch_size: Annotated[int, typer.Option(help="Questions per step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Peak.")] = 1e-4,
    epochs: Annotated[float, typer.Option(help="Passes over the questions.")] = 1.0,
    teacher: Annotated[str, typer.Option(help="'similarity' or 'hybrid'.")] = "hybrid",
    base: Annotated[str, typer.Option(help="Model to start from. " + EMBED_HELP)] = "minilm",
) -> None:
    """In-batch, naive hard negatives, adaptive margin, adaptive margin with soft labels: the same model trained each way."""
    from llama_index_instruct.evaluation.datasets import load_beir
    from llama_index_instruct.evaluation.incontext_report import recipe_table
    from llama_index_instruct.evaluation.recipe import ARMS, RecipeBench, bench_recipe
    from llama_index_instruct.inbedder.triples import read_triples

    with errors_as_messages():
        settings = RecipeBench(
            base=base,
            teacher=teacher,
            questions=questions,
            held_out=held_out,
            longest=longest,
            num_negatives=negatives,
            batch_size=batch_size,
            learning_rate=learning_rate,
            epochs=epochs,
            seeds=tuple(_numbers(seeds, "seeds")),
            arms=comma_separated(arms) or tuple(ARMS),
        )
        wanted = comma_separated(sources)
        triples = [triple for triple in read_triples(qa) if not wanted or triple.source in wanted]
        record = bench_recipe(triples, [load_beir(folder) for folder in data or []], settings)
        write_and_show(record, output, recipe_table)


def bench_steering_command(
    domains: Annotated[Path, typer.Option(help="JSONL of domains: texts labelled on several facets.")],
    folder: Annotated[Path, typer.Option(help="Where the decoder is kept, before and after training.")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
    base: Annotated[str, typer.Option(help="Sentence encoder of BERT's family to make the decoder of.")] = "minilm",
    groups: Annotated[int, typer.Option(help="Groups of 16 texts per training domain.")] = 1,
    epochs: Annotated[float, typer.Option(help="Passes over them.")] = 1.0,
    learning_rate: Annotated[float, typer.Option(help="Peak.")] = 3e-5,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
) -> None:
    """Adapt a small decoder and test whether examples in the prompt move its embeddings in the asked direction."""
    from llama_index_instruct.evaluation.incontext_report import steering_table
    from llama_index_instruct.evaluation.steering import SteeringBench, bench_steering
    from llama_index_instruct.inbedder.facet_texts import read_domains

    with errors_as_messages():
        settings = SteeringBench(groups=groups, epochs=epochs, learning_rate=learning_rate, seed=seed)
        record = bench_steering(read_domains(domains), settings, folder, base=base)
        write_and_show(record, output, steering_table)


def bench_mining_command(
    planted: Annotated[Path, typer.Option(help="JSONL of query, positive, paraphrases, hard_negatives.")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
    teacher: Annotated[
        str, typer.Option(help=TEACHER_HELP + " 'gold:0.05': the truth, wrong in 5 % of cases.")
    ] = "similarity",
    logits: Annotated[bool, typer.Option(help="The teacher gives logits.")] = False,
    embed_model: Annotated[str, typer.Option(help=EMBED_HELP)] = "minilm",
) -> None:
    """Planted hidden positives and hard negatives: what each margin rule removes of the first and keeps of the second."""
    from llama_index_instruct.evaluation.incontext_report import mining_table
    from llama_index_instruct.evaluation.mining_bench import bench_mining, gold_teacher, load_planted
    from llama_index_instruct.incontext.margins import RULES

    with errors_as_messages():
        rows = load_planted(planted)
        chosen = gold_teacher(rows, teacher) if teacher.startswith("gold") else mining_teacher(teacher)
        record = bench_mining(rows, RULES, embed_model=embed_model, teacher=chosen, logits=logits)
        record["teacher"] = teacher
        write_and_show(record, output, mining_table)


def mining_teacher(name: str) -> Any:
    """Return the teacher behind ``--teacher``."""
    if not name.startswith("cross-encoder:"):
        return name
    from sentence_transformers import CrossEncoder

    from llama_index_instruct.models import resolve_model

    return CrossEncoder(resolve_model(name.removeprefix("cross-encoder:")))


def _numbers(text: str, name: str) -> list[int]:
    from llama_index_instruct.errors import ConfigurationError

    try:
        return [int(part) for part in comma_separated(text)]
    except ValueError as error:
        raise ConfigurationError(f"{name}: expected whole numbers with commas, found {text!r}") from error
