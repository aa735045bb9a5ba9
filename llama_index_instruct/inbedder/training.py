"""Question-answer triples -> an InBedder checkpoint, on Hugging Face's trainer (paper section 3.2, and our addition)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from llama_index_instruct.errors import ConfigurationError, MissingExtraError
from llama_index_instruct.inbedder.model_card import write_model_card
from llama_index_instruct.inbedder.triples import QATriple
from llama_index_instruct.ranges import check_not_negative, check_positive
from llama_index_instruct.training_runs import check_single_process, matching_checkpoint


@dataclass(frozen=True)
class InBedderTrainingSettings:
    """How an InBedder is trained.

    Attributes:
        epochs: Passes over the triples.
        batch_size: Triples per step; the contrastive terms compare within a batch.
        learning_rate: Peak; linear warm-up over ``warmup`` of the steps, then linear decay to zero.
        warmup: Share of the steps.
        weight_decay: AdamW's.
        answer_weight: Weight of the answer's cross-entropy, the paper's objective.
        contrast_weight: Weight of the InfoNCE term towards a frozen encoder's embedding of the answer; 0 leaves it out.
        state_weight: Weight of the contrast among the states themselves; 0 leaves it out.
        scale: Inverse temperature of both contrastive terms.
        largest_group: Triples of one group that share a batch.
        max_length: Longest prompt in tokens.
        masks: Mask tokens of a masked model; answers are cut or filled to as many.
        dropout: Of masked models; 0 is a third faster on a CPU, and one epoch leaves little to overfit.
        bf16: Train under bfloat16 autocast.
        seed: For batches and new weights.
        save_steps: Steps between the checkpoints a stopped run resumes from.
    """

    epochs: float = 1.0
    batch_size: int = 256
    learning_rate: float = 2e-4
    warmup: float = 0.06
    weight_decay: float = 0.01
    answer_weight: float = 1.0
    contrast_weight: float = 1.0
    state_weight: float = 1.0
    scale: float = 20.0
    largest_group: int = 32
    max_length: int = 256
    masks: int = 3
    dropout: float = 0.0
    bf16: bool = True
    seed: int = 0
    save_steps: int = 200

    def __post_init__(self) -> None:
        check_positive(self, "epochs", "batch_size", "learning_rate", "scale", "largest_group", "max_length")
        check_positive(self, "masks", "save_steps")
        check_not_negative(
            self, "answer_weight", "contrast_weight", "state_weight", "weight_decay", "warmup", "dropout"
        )
        if not self.dropout < 1:
            raise ConfigurationError(f"dropout: expected less than 1, found {self.dropout}")


def train_inbedder(
    triples: Sequence[QATriple],
    base: str,
    output: str | Path,
    *,
    kind: Literal["causal", "masked"] | None = None,
    encoder: str = "minilm",
    settings: InBedderTrainingSettings = InBedderTrainingSettings(),
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
