"""Question-answer triples -> an InBedder checkpoint, on Hugging Face's trainer (paper section 3.2, and our addition)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, astuple
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from llama_index_instruct.errors import ConfigurationError, MissingExtraError
from llama_index_instruct.inbedder.model_card import write_model_card
from llama_index_instruct.inbedder.training_settings import DEFAULT_TRAINING, InBedderTrainingSettings
from llama_index_instruct.inbedder.triples import QATriple
from llama_index_instruct.training_runs import check_single_process, matching_checkpoint


def train_inbedder(
    triples: Sequence[QATriple],
    base: str,
    output: str | Path,
    *,
    kind: Literal["causal", "masked"] | None = None,
    encoder: str = "minilm",
    settings: InBedderTrainingSettings = DEFAULT_TRAINING,
    data_notes: str = "",
    resume: bool = True,
) -> Path:
    """Train an InBedder and save it, with its tokenizer and a model card, ready for ``InBedderEmbedding(output)``.

    Args:
        triples: Training data.
        base: Folder or Hub name of the model to start from; ``"minilm"`` for the offline default.
        output: Folder of the result; checkpoints are kept in its ``checkpoints`` folder.
        kind: How the model answers; None reads it from the base's configuration.
        encoder: Frozen sentence encoder whose embeddings of the answers are the contrastive targets.
        settings: See ``InBedderTrainingSettings``.
        data_notes: Sources and licences of the data, Markdown for the model card.
        resume: Go on from the newest checkpoint in ``output``, if there is one of this very run.

    Returns:
        The output folder.

    Raises:
        ConfigurationError: If there are no triples, the model can be neither causal nor masked, the checkpoints in ``output``
            belong to a run with other data, base or settings, or the processes of this run are several.
        MissingExtraError: If the extra ``train`` is not installed.
    """
    if not triples:
        raise ConfigurationError("triples: expected at least one, found none")
    check_single_process()
    if find_spec("accelerate") is None:  # Hugging Face's trainer needs it, and would say so less plainly
        raise MissingExtraError("Training", "train")
    from llama_index_instruct.inbedder.trainer import AnswerTrainer, load_for_training

    output = Path(output)
    model, tokenizer, answers_as = load_for_training(base, kind, settings)
    trainer = AnswerTrainer.prepare(model, tokenizer, answers_as, triples, output / "checkpoints", settings, encoder)
    checkpoint = matching_checkpoint(
        output / "checkpoints", _run_digest(triples, base, encoder, settings), resume=resume
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    write_model_card(output, base, encoder, triples, asdict(settings), trainer.state.log_history, data_notes)
    return output


def _run_digest(triples: Sequence[QATriple], base: str, encoder: str, settings: InBedderTrainingSettings) -> str:
    digest = hashlib.sha256(json.dumps([base, encoder, asdict(settings)]).encode())
    for triple in triples:
        digest.update(json.dumps(astuple(triple)).encode())
    return digest.hexdigest()
