"""Does the recipe of LG-ANNA pay? One model trained four ways on question-to-paragraph retrieval, several seeds."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from llama_index_instruct.embedders.devices import multiplies_bfloat16
from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.evaluation.datasets import Query, RetrievalSet, check_different_names
from llama_index_instruct.evaluation.hidden_answers import known_answers, removed_and_best, share_holding
from llama_index_instruct.evaluation.ranking import mean_measures, rankings
from llama_index_instruct.inbedder.triples import QATriple
from llama_index_instruct.incontext.choosing import MiningSettings
from llama_index_instruct.incontext.groups import TrainingSet
from llama_index_instruct.incontext.mined import MinedRow
from llama_index_instruct.incontext.mining import HardNegativeMiner
from llama_index_instruct.incontext.training import train_incontext
from llama_index_instruct.incontext.training_settings import InContextTrainingSettings
from llama_index_instruct.models import load_embed_model, resolve_model
from llama_index_instruct.rows import unit_rows

HELD_OUT = "held-out questions"
TEACHER_SEED = 1_000
PASSAGE_TOKENS = 160


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        rule: Of the hard negatives; None: none but the other rows' positives.
        soft: Whether the teacher's scores are distilled.
    """

    rule: str | None
    soft: bool = False


ARMS = {
    "in-batch": Arm(None),
    "naive": Arm("topk"),
    "margin": Arm("adaptive"),
    "margin+soft": Arm("adaptive", soft=True),
}


@dataclass(frozen=True)
class RecipeBench:
    """Settings of a run.

    Attributes:
        base: Model to start from.
        teacher: ``"similarity"`` or ``"hybrid"``, as in ``mine_hard_negatives``; the model that searches and scores is the base
            after a first training in batches, with a seed of its own.
        questions: To train on, drawn once.
        held_out: To test on, of paragraphs that no training question has.
        longest: Most words of a paragraph.
        num_negatives: Per question.
        sample_from: The best so many survivors.
        batch_size: Questions per step.
        learning_rate: Peak.
        epochs: Passes over the questions.
        soft_weight: Of the soft labels, where they are used.
        teacher_temperature: Of the teacher's scores; None: as ``train_incontext`` chooses.
        seeds: Of batches; everything else stays.
        arms: Names of ``ARMS``.
    """

    base: str = "minilm"
    teacher: str = "hybrid"
    questions: int = 1024
    held_out: int = 1000
    longest: int = 30
    num_negatives: int = 2
    sample_from: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-4
    epochs: float = 1.0
    soft_weight: float = 1.0
    teacher_temperature: float | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: tuple[str, ...] = tuple(ARMS)

    def __post_init__(self) -> None:
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown or not self.arms:
            raise ConfigurationError(f"arms: expected some of {', '.join(ARMS)}, found {', '.join(unknown) or 'none'}")
        if not self.seeds:
            raise ConfigurationError("seeds: expected at least one, found none")


def bench_recipe(
    triples: Sequence[QATriple],
    sets: Sequence[RetrievalSet],
    settings: RecipeBench,
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Return ``{"bench": "recipe", "settings", "data", "mining", "scores", "means"}``; MAP and nDCG@10 in percent.

    Args:
        triples: Questions with their paragraphs. The answers are used for nothing but evidence: how many negatives, and how
            many of the candidates that a rule removed, hold one.
        sets: Other retrieval sets to test on.
        settings: What is run.
        progress: Show progress bars.
    """
    train, held_out = split(triples, settings)
    check_different_names("data", [held_out.name, *(data.name for data in sets)])
    with tempfile.TemporaryDirectory() as folder:
        return _bench(train, [held_out, *sets], known_answers(triples), settings, Path(folder), progress)


def _bench(
    train: Sequence[tuple[str, str]],
    tested: Sequence[RetrievalSet],
    answers: Mapping[str, set[str]],
    settings: RecipeBench,
    folder: Path,
    progress: bool,
) -> dict[str, Any]:
    pairs = [MinedRow(query, positive) for query, positive in train]
    rules = dict.fromkeys(ARMS[arm].rule for arm in settings.arms)
    teacher = _train(pairs, "in-batch", TEACHER_SEED, settings, folder / "teacher") if any(rules) else None
    mined = {
        rule: _mine(train, rule, str(teacher), answers, settings, progress) if rule else (pairs, {}) for rule in rules
    }
    record: dict[str, Any] = {
        "bench": "recipe",
        "settings": asdict(settings),
        "data": {"training questions": len(train)} | {found.name: len(found.queries) for found in tested},
        "mining": {rule: report for rule, (_, report) in mined.items() if rule},
        "scores": {"untrained": [_scores(settings.base, tested)]},
    }
    if teacher is not None:
        record["scores"]["teacher's model"] = [_scores(str(teacher), tested)]
    runs = [(arm, seed) for seed in settings.seeds for arm in settings.arms]
    for arm, seed in tqdm(runs, desc="training", disable=not progress):
        rows, _ = mined[ARMS[arm].rule]
        model = _train(rows, arm, seed, settings, folder / f"{arm}-{seed}")
        record["scores"].setdefault(arm, []).append(_scores(str(model), tested))
    record["means"] = {arm: _mean_and_spread(scores) for arm, scores in record["scores"].items()}
    return record


def split(triples: Sequence[QATriple], settings: RecipeBench) -> tuple[list[tuple[str, str]], RetrievalSet]:
    """Return pairs to train on and a retrieval set of held-out questions; no paragraph is in both.

    A third of the paragraphs is held out; all of them are searched. A question asked of several paragraphs has them all.
    """
    short = [t for t in triples if len(t.paragraph.split()) <= settings.longest]
    paragraphs = sorted({triple.paragraph for triple in short})
    rng = np.random.default_rng(0)
    held = {paragraphs[i] for i in rng.permutation(len(paragraphs))[: len(paragraphs) // 3].tolist()}
    known = list(dict.fromkeys((t.question, t.paragraph) for t in short if t.paragraph not in held))
    asked = list(dict.fromkeys(t.question for t in short if t.paragraph in held))
    if len(known) < settings.questions or not asked:
        raise ConfigurationError(
            f"triples: expected {settings.questions} questions to train on and some held out, "
            f"found {len(known)} and {len(asked)}"
        )
    train = [known[i] for i in sorted(rng.permutation(len(known))[: settings.questions].tolist())]
    questions = [asked[i] for i in sorted(rng.permutation(len(asked))[: settings.held_out].tolist())]
    corpus = sorted(held)
    row_of = {paragraph: row for row, paragraph in enumerate(corpus)}
    answered: dict[str, set[int]] = {}
    for triple in short:
        if triple.paragraph in held:
            answered.setdefault(triple.question, set()).add(row_of[triple.paragraph])
    return train, RetrievalSet(
        name=HELD_OUT,
        queries=[Query(str(number), question) for number, question in enumerate(questions)],
        document_ids=[str(row) for row in range(len(corpus))],
        documents=corpus,
        relevant=[np.array(sorted(answered[question]), dtype=np.intp) for question in questions],
        pools=None,
    )


def _mine(
    pairs: Sequence[tuple[str, str]],
    rule: str,
    model: str,
    answers: Mapping[str, set[str]],
    settings: RecipeBench,
    progress: bool,
) -> tuple[list[MinedRow], dict[str, Any]]:
    miner = HardNegativeMiner(
        pairs,
        embed_model=load_embed_model(model),
        teacher=settings.teacher,
        rule=rule,
        settings=MiningSettings(num_negatives=settings.num_negatives, sample_from=settings.sample_from),
        progress=progress,
    )
    rows = list(miner)
    evidence = {"negatives that hold an answer": share_holding(rows, answers)} | removed_and_best(miner, rule, answers)
    return rows, miner.report.as_dict() | {"evidence": evidence}


def _train(rows: Sequence[MinedRow], arm: str, seed: int, settings: RecipeBench, folder: Path) -> Path:
    soft = ARMS[arm].soft
    chosen = rows if soft else [replace(row, scores=()) for row in rows]
    training = InContextTrainingSettings(
        soft_weight=settings.soft_weight,
        teacher_temperature=settings.teacher_temperature,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        most_examples=0,
        template="bare",
        passage_tokens=PASSAGE_TOKENS,
        lora_rank=0,
        save_steps=1_000_000,
        seed=seed,
    )
    return train_incontext([TrainingSet("questions", chosen)], settings.base, folder, settings=training, resume=False)


def _scores(model: str, sets: Sequence[RetrievalSet]) -> dict[str, dict[str, float]]:
    encoder = SentenceTransformer(resolve_model(model))
    encoder.max_seq_length = PASSAGE_TOKENS
    scores = {}
    for data in sets:
        queries = _encoded(encoder, [query.embedded_text for query in data.queries])
        scores[data.name] = mean_measures(data, rankings(data, queries, _encoded(encoder, data.documents)))
    return scores


def _encoded(encoder: SentenceTransformer, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    # As in training: bfloat16 products where the hardware has them.
    device = encoder.device
    with torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bfloat16(device)):
        vectors: Any = encoder.encode(list(texts), batch_size=64, convert_to_tensor=True)
    return unit_rows(vectors.float().cpu().numpy())


def _mean_and_spread(scores: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Return per set the mean of MAP over seeds and its standard deviation."""
    return {
        name: {
            "map": statistics.fmean(values),
            "spread": statistics.stdev(values) if len(values) > 1 else 0.0,
            "ndcg@10": statistics.fmean(run[name]["ndcg@10"] for run in scores),
        }
        for name in scores[0]
        for values in [[run[name]["map"] for run in scores]]
    }
