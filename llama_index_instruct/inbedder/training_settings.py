"""How an InBedder is trained."""

from __future__ import annotations

from dataclasses import dataclass

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.ranges import check_not_negative, check_positive


@dataclass(frozen=True)
class InBedderTrainingSettings:
    """How an InBedder is trained.

    Attributes:
        epochs: Passes over the triples.
        batch_size: Triples per step; the contrastive terms compare within a batch. On a CPU the attention weights of a whole
            step are kept for its backward pass: fewer for long prompts and large models.
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


DEFAULT_TRAINING = InBedderTrainingSettings()
