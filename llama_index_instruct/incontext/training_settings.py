"""How an in-context embedding model is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.ranges import check_not_negative, check_positive


@dataclass(frozen=True)
class InContextTrainingSettings:
    """How an in-context embedding model is trained; the report leaves these open, the defaults are bge-en-icl's.

    Attributes:
        epochs: Passes over all sets.
        batch_size: Queries per step, all of one set.
        learning_rate: Peak; linear warm-up, then linear decay to zero.
        warmup: Share of the steps.
        weight_decay: AdamW's.
        temperature: Of the cosines, in both terms.
        soft_weight: Weight of the distillation term; it is left out for sets without soft scores.
        teacher_temperature: Of the teacher's raw scores; None: 1 for logits, ``BOUNDED_TEMPERATURE`` for scores in [-1, 1],
            whose softmax would be nearly flat.
        most_examples: A query is shown 0 to so many other rows of its batch.
        template: How a query is written down, as in ``InContextEmbedding``.
        query_tokens: Most tokens of a query's own text.
        passage_tokens: Most tokens of a passage.
        example_tokens: Most tokens before the query's text.
        lora_rank: Of the adapters on all linear layers; 0 trains all weights.
        lora_alpha: Their scale.
        lora_dropout: Their dropout.
        merge: Save the model with the adapters merged in; else the adapters alone, to be put onto the base.
        bf16: Train under bfloat16 autocast; None: where the hardware multiplies it natively.
        gradient_checkpointing: Trade time for memory.
        eval_steps: Steps between two evaluations, if there are evaluators; None: at the end of each epoch.
        save_steps: Steps between the checkpoints a stopped run resumes from.
        seed: Of batches, examples and new weights.
    """

    epochs: float = 1.0
    batch_size: int = 32
    learning_rate: float = 1e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    temperature: float = 0.02
    soft_weight: float = 1.0
    teacher_temperature: float | None = None
    most_examples: int = 5
    template: Literal["lg-anna", "bge-en-icl", "plain", "bare"] = "lg-anna"
    query_tokens: int = 512
    passage_tokens: int = 512
    example_tokens: int = 1536
    lora_rank: int = 32
    lora_alpha: int = 64
    lora_dropout: float = 0.1
    merge: bool = True
    bf16: bool | None = None
    gradient_checkpointing: bool = False
    eval_steps: int | None = None
    save_steps: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "epochs", "batch_size", "learning_rate", "temperature", "teacher_temperature")
        check_positive(self, "query_tokens", "passage_tokens", "example_tokens", "lora_alpha", "save_steps")
        check_not_negative(self, "warmup", "weight_decay", "soft_weight", "most_examples", "lora_rank", "lora_dropout")
        if not self.lora_dropout < 1:
            raise ConfigurationError(f"lora_dropout: expected less than 1, found {self.lora_dropout}")
        if self.eval_steps is not None and self.eval_steps < 1:
            raise ConfigurationError(f"eval_steps: expected 1 or more, or None, found {self.eval_steps}")


DEFAULT_TRAINING = InContextTrainingSettings()
