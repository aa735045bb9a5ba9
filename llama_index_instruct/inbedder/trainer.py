"""Hugging Face's trainer with the answer objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments, set_seed

from llama_index_instruct.embedders.positions import load_tokenizer, longest_prompt, position_ids
from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.inbedder.batches import GroupedBatches
from llama_index_instruct.inbedder.examples import (
    IGNORED,
    LONGEST_ANSWER,
    Example,
    ExampleMaker,
    Step,
    collate_causal,
    collate_masked,
)
from llama_index_instruct.inbedder.loading import (
    Kind,
    load_model,
    model_kind,
    output_embeddings,
    prediction_head,
)
from llama_index_instruct.inbedder.objective import answer_contrast, state_contrast
from llama_index_instruct.inbedder.pooling import expected_answer
from llama_index_instruct.inbedder.triples import QATriple, groups_of
from llama_index_instruct.inbedder.weights import is_quantized
from llama_index_instruct.inbedder.words import english_stopwords
from llama_index_instruct.models import loading, resolve_model
from llama_index_instruct.training_runs import trainer_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from llama_index_instruct.inbedder.training_settings import InBedderTrainingSettings


DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")
"""Names under which the configurations of BERT's family keep dropout."""

CPU_ROWS = 32
"""Rows of a step that a CPU reads at once: of like length, they need little padding."""


class AnswerTrainer(Trainer):
    """Trains on ``answer_weight`` cross-entropy + ``contrast_weight`` InfoNCE + ``state_weight`` contrast among states."""

    def __init__(
        self,
        *,
        settings: InBedderTrainingSettings,
        kind: Kind,
        answers: Tensor,
        batches: GroupedBatches,
        **trainer: Any,
    ) -> None:
        self._settings = settings
        self._kind = kind
        self._answers = answers
        self._batches = batches
        super().__init__(**trainer)

    @classmethod
    def prepare(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        kind: Kind,
        triples: Sequence[QATriple],
        folder: Path,
        settings: InBedderTrainingSettings,
        encoder: str,
    ) -> AnswerTrainer:
        """Tokenise the triples, embed their answers, and return a trainer about to start."""
        room = longest_prompt(model.config, tokenizer) - (LONGEST_ANSWER if kind == "causal" else 0)
        maker = ExampleMaker(
            tokenizer,
            kind,
            max_length=min(settings.max_length, room),
            masks=settings.masks,
            stopwords=english_stopwords(),
        )
        examples, answers = maker.make(triples)
        batches = GroupedBatches(
            groups_of(triples, settings.largest_group), [len(e) for e in examples], settings.batch_size, settings.seed
        )
        return cls(
            model=model,
            args=_arguments(folder, settings),
            train_dataset=cast(Any, examples),
            data_collator=_collator(kind, cast(int, tokenizer.pad_token_id)),
            settings=settings,
            kind=kind,
            answers=embed_answers(answers, encoder, model.config.hidden_size),
            batches=batches,
        )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches that keep groups together instead of the trainer's random ones."""
        loader: DataLoader[Any] = DataLoader(
            cast(Any, self.train_dataset), batch_sampler=cast(Any, self._batches), collate_fn=self.data_collator
        )
        return cast("DataLoader[Any]", self.accelerator.prepare(loader))

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the weighted sum of the three terms."""
        step = cast(Step, inputs)
        device = step["input_ids"].device.type
        # The trainer's own autocast covers the model's forward() only.
        with torch.autocast(device, torch.bfloat16, enabled=self._settings.bf16):
            states, scores = answer_states(self.accelerator.unwrap_model(model), self._kind, step)
        loss = self._settings.answer_weight * answer_loss(scores, step["labels"])
        pooled = states.float().mean(dim=1) if self._kind == "masked" else states[:, 0].float()
        targets = self._answers[step["answer_ids"].cpu()].to(pooled.device).float()
        if self._settings.contrast_weight:
            loss = loss + self._settings.contrast_weight * answer_contrast(pooled, targets, self._settings.scale)
        if self._settings.state_weight:
            expected = expected_answer(scores[:, 0], output_embeddings(model))
            apart = state_contrast(pooled, targets, self._settings.scale)
            apart = apart + state_contrast(expected, targets, self._settings.scale)
            loss = loss + self._settings.state_weight * apart / 2
        return (loss, {"states": pooled}) if return_outputs else loss


def answer_states(model: PreTrainedModel, kind: Kind, step: Step) -> tuple[Tensor, Tensor]:
    """Return the (b, a, d) last-layer states at the answer positions and their (b, a, words) scores.

    The language-model head reads only these positions: over all of them it costs more than the model below it.
    """
    if step["input_ids"].device.type == "cpu":
        order = step["attention_mask"].sum(dim=1).argsort(descending=True)
        parts = [_read(model, kind, _part(step, kind, rows)) for rows in torch.split(order, CPU_ROWS)]
        states = torch.cat(parts)[order.argsort()]
    else:
        states = _read(model, kind, step)
    head = prediction_head(model) if kind == "masked" else cast(Any, model).get_output_embeddings()
    return states, head(states)


def answer_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over the answer tokens that are learnt; 0 where there is none, as in a batch of gists.

    Args:
        scores: (b, a, words).
        labels: (b, a).
    """
    summed = functional.cross_entropy(
        scores.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return summed / (labels != IGNORED).sum().clamp(min=1)


def _part(step: Step, kind: Kind, rows: Tensor) -> Step:
    """Return some rows of a step without the padding that only the other rows need."""
    mask = step["attention_mask"][rows]
    padding = mask.shape[1] - int(mask.sum(dim=1).max())
    cut = padding if kind == "causal" else 0  # causal prompts are padded in front
    columns = slice(cut, mask.shape[1] - padding + cut)
    return {
        "input_ids": step["input_ids"][rows, columns],
        "attention_mask": mask[:, columns],
        "answer_at": step["answer_at"][rows] - cut,
        "labels": step["labels"][rows],
        "answer_ids": step["answer_ids"][rows],
    }


def _read(model: PreTrainedModel, kind: Kind, step: Step) -> Tensor:
    inputs = {"input_ids": step["input_ids"], "attention_mask": step["attention_mask"]}
    if kind == "causal":
        inputs |= position_ids(model, step["attention_mask"])
    states = model.base_model(**inputs).last_hidden_state
    return cast(Tensor, states[torch.arange(len(states), device=states.device)[:, None], step["answer_at"]])


def embed_answers(answers: Sequence[str], encoder: str, width: int) -> Tensor:
    """Return the frozen encoder's unit embeddings of the answers, (n, width), half precision.

    Where the model in training has another width, one fixed rotation carries the embeddings over: with more
    dimensions their cosines stay as they are, with fewer approximately (Johnson-Lindenstrauss).
    """
    from sentence_transformers import SentenceTransformer

    vectors = SentenceTransformer(resolve_model(encoder)).encode(
        list(answers), batch_size=256, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=True
    )
    vectors = vectors.float().cpu()
    if vectors.shape[1] != width:
        generator = torch.Generator().manual_seed(0)
        tall, flat = max(vectors.shape[1], width), min(vectors.shape[1], width)
        rotation, _ = torch.linalg.qr(torch.randn(tall, flat, generator=generator))
        vectors = vectors @ (rotation.T if vectors.shape[1] < width else rotation)
    return vectors.half()


def load_for_training(
    base: str, kind: Kind | None, settings: InBedderTrainingSettings
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, Kind]:
    """Load the model to start from, new weights seeded.

    Raises:
        ConfigurationError: If the model is neither causal nor masked.
    """
    from transformers import AutoConfig

    path = resolve_model(base)
    with loading(f"base model {base}"):
        config = AutoConfig.from_pretrained(path)
    kind = kind or model_kind(config)
    if kind == "seq2seq":
        raise ConfigurationError("base model: expected a causal or masked language model, found an encoder-decoder")
    set_seed(settings.seed)
    if is_quantized(path):
        raise ConfigurationError(f"base model: expected full weights to train from, found eight-bit ones in {path}")
    dropout = {name: settings.dropout for name in DROPOUTS if hasattr(config, name)} if kind == "masked" else {}
    model = load_model(path, kind, dtype=torch.float32, **dropout)
    if not torch.accelerator.is_available():
        # On a CPU the backward pass of torch's fused attention takes longer than all the rest of the layer.
        model.set_attn_implementation("eager")
    # The class of embeddings reads from here how the model was trained to be read.
    pooling = "avg_gen" if kind == "masked" else "first_gen"
    model.config.inbedder = {"pooling": pooling, "template": "inbedder", "masks": settings.masks}
    return model, load_tokenizer(path), kind


def _collator(kind: Kind, pad: int) -> Callable[[Sequence[Example]], Step]:
    collate = collate_masked if kind == "masked" else collate_causal
    return lambda examples: collate(examples, pad)


def _arguments(folder: Path, settings: InBedderTrainingSettings) -> TrainingArguments:
    return TrainingArguments(
        **trainer_arguments(folder, settings),
        bf16=settings.bf16,
        remove_unused_columns=False,
        label_names=["labels"],
    )
