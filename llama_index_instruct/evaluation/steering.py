"""Do examples in the prompt change the embedding in the asked direction? A small decoder, adapted and tested.

A text has a value on each of several facets ("tent" on product, "angry" on feeling). Shown texts with their values on one
facet, the model should put a new text nearer to its value on that facet than to its value on another. The task is the same
sentence throughout, so whatever ignores the examples has 50 % in the mean over both facets of a pair.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.evaluation.embedders import is_sentence_encoder
from llama_index_instruct.inbedder.facet_texts import Domain, compose_triples
from llama_index_instruct.inbedder.triples import QATriple
from llama_index_instruct.incontext.embedding import InContextEmbedding
from llama_index_instruct.incontext.groups import TrainingSet
from llama_index_instruct.incontext.mined import MinedRow
from llama_index_instruct.incontext.template import find_template
from llama_index_instruct.incontext.training import train_incontext
from llama_index_instruct.incontext.training_settings import InContextTrainingSettings
from llama_index_instruct.models import MINILM, resolve_model

TASK = "Name what the examples name."
HELD_OUT_SEED = 1_000
Vectors = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str], Sequence[tuple[str, str]]], tuple[Vectors, Callable[[Sequence[str]], Vectors]]]


@dataclass(frozen=True)
class Faceted:
    """Texts of one group with their values on two facets.

    Attributes:
        domain: They are all about.
        texts: n texts.
        values: Their values on either facet, n pairs.
    """

    domain: str
    texts: tuple[str, ...]
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SteeringBench:
    """Settings of a run.

    Attributes:
        held_out: Domains to test on; the others are trained on.
        groups: Groups of 16 texts drawn per training domain.
        tested: Groups drawn per held-out domain.
        examples: Numbers of examples to test with.
        epochs: Passes over the rows.
        learning_rate: Peak.
        batch_size: Rows per step.
        seed: Of everything.
    """

    held_out: int = 12
    groups: int = 1
    tested: int = 3
    examples: tuple[int, ...] = (0, 1, 3, 5)
    epochs: float = 1.0
    learning_rate: float = 3e-5
    batch_size: int = 16
    seed: int = 0


def bench_steering(
    domains: Sequence[Domain], settings: SteeringBench, output: Path, *, base: str = MINILM
) -> dict[str, Any]:
    """Train a small decoder in ``output`` and return ``{"bench": "steering", "settings", "success"}``, in percent.

    Args:
        domains: Texts on several facets.
        settings: What is run.
        output: Folder of the decoder before (``base``) and after (``trained``) training.
        base: A sentence encoder of BERT's family: its weights, read from left to right, are what training starts from.
    """
    if not 0 < settings.held_out < len(domains):
        raise ConfigurationError(f"held_out: expected 1 to {len(domains) - 1} domains, found {settings.held_out}")
    order = np.random.default_rng(settings.seed).permutation(len(domains)).tolist()
    known, unknown = ([domains[i] for i in part] for part in (order[settings.held_out :], order[: settings.held_out]))
    start = as_decoder(base, output / "base")
    training = InContextTrainingSettings(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        temperature=0.05,
        query_tokens=128,
        passage_tokens=32,
        example_tokens=352,
        most_examples=3,
        lora_rank=0,
        seed=settings.seed,
    )
    sets = training_sets(groups_of_texts(known, settings.groups, settings.seed))
    trained = train_incontext(sets, str(start), output / "trained", settings=training)
    tested = groups_of_texts(unknown, settings.tested, settings.seed + HELD_OUT_SEED)
    embedders = {
        "examples before the text, " + base: prefixed(base),
        "decoder, not trained": in_context(str(start)),
        "decoder, trained": in_context(str(trained)),
    }
    success = {
        name: {str(count): steered(tested, embed, count, settings.seed) for count in settings.examples}
        for name, embed in embedders.items()
    }
    return {
        "bench": "steering",
        "settings": asdict(settings),
        "rows": {"trained on": sum(len(s.rows) for s in sets), "tested": 2 * sum(len(g.texts) for g in tested)},
        "success": success,
    }


def as_decoder(base: str, folder: Path) -> Path:
    """Save an encoder of BERT's family as a decoder with the same weights: every token sees only those before it."""
    from transformers import AutoModel, AutoTokenizer

    path = resolve_model(base)
    if not is_sentence_encoder(base):
        raise ConfigurationError(f"base: expected a sentence encoder, found {base}")
    model = AutoModel.from_pretrained(path, is_decoder=True, add_pooling_layer=False)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path).save_pretrained(folder)
    return folder


def groups_of_texts(domains: Sequence[Domain], count: int, seed: int) -> list[Faceted]:
    """Draw groups of texts that all have a value on the same two facets."""
    groups: dict[str, dict[str, list[QATriple]]] = {}
    for triple in compose_triples(domains, count, seed=seed):
        groups.setdefault(triple.group, {}).setdefault(triple.paragraph, []).append(triple)
    found = []
    for texts in groups.values():
        both = {text: asked for text, asked in texts.items() if len(asked) == 2 and asked[0].answer != asked[1].answer}
        if len(both) >= 4:
            domain = next(iter(both.values()))[0].source
            values = tuple((asked[0].answer, asked[1].answer) for asked in both.values())
            found.append(Faceted(domain, tuple(both), values))
    return found


def training_sets(groups: Sequence[Faceted]) -> list[TrainingSet]:
    """Return two sets per group, one per facet: the value on it against the text's other value and values of other texts."""
    return [
        TrainingSet(f"group {number} facet {side}", rows, TASK, "classification", "composed from the domains file")
        for number, group in enumerate(groups)
        for side in (0, 1)
        for rows in [list(_rows(group, side))]
        if rows
    ]


def _rows(group: Faceted, side: int) -> Iterator[MinedRow]:
    wanted, misleading = (sorted({values[which] for values in group.values}) for which in (side, 1 - side))
    for number, (text, values) in enumerate(zip(group.texts, group.values, strict=True)):
        rivals = [value for value in wanted if value != values[side]]
        others = [value for value in misleading if value != values[1 - side]]
        if rivals and others:
            yield MinedRow(
                text, values[side], (values[1 - side], rivals[number % len(rivals)], others[number % len(others)])
            )


def steered(groups: Sequence[Faceted], embed: Embed, examples: int, seed: int) -> float:
    """Return how often, in percent, a text is nearer to its value on the facet shown than to that on the other."""
    rng = np.random.default_rng(seed)
    shares = []
    for group in groups:
        shown = rng.permutation(len(group.texts))[:examples].tolist()
        asked = [i for i in range(len(group.texts)) if i not in shown]
        if not asked:
            continue
        for side in (0, 1):
            pairs = [(group.texts[i], group.values[i][side]) for i in shown]
            queries, passages = embed([group.texts[i] for i in asked], pairs)
            right, wrong = (passages([group.values[i][which] for i in asked]) for which in (side, 1 - side))
            margin = ((right - wrong) * queries).sum(axis=1)
            shares.append(float((margin > 0).mean() + (margin == 0).mean() / 2))
    return 100.0 * statistics.fmean(shares)


def in_context(model: str) -> Embed:
    """Return an ``InContextEmbedding`` as an embedder."""
    embedding = InContextEmbedding(model, TASK, query_tokens=128, example_tokens=352)

    def embed(queries: Sequence[str], examples: Sequence[tuple[str, str]]) -> Any:
        shown = embedding.with_task(TASK, examples)
        return np.array(shown.get_query_embeddings(queries), dtype=np.float32), lambda texts: np.array(
            shown.get_text_embedding_batch(list(texts)), dtype=np.float32
        )

    return embed


def prefixed(model: str) -> Embed:
    """Return a sentence encoder that reads the examples before the text: what one would try without this package."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(resolve_model(model))
    template = find_template("lg-anna")

    def passages(texts: Sequence[str]) -> Vectors:
        return np.asarray(encoder.encode(list(texts), normalize_embeddings=True), dtype=np.float32)

    def embed(queries: Sequence[str], examples: Sequence[tuple[str, str]]) -> Any:
        head, tail = template.head(TASK, examples), template.tail(TASK)
        return passages([head + query + tail for query in queries]), passages

    return embed
