"""sentence-transformers' trainer with the recipe's loss, batches and adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch import Tensor, nn
from torch.nn import functional
from transformers import set_seed

from llama_index_instruct.embedders.devices import default_device, multiplies_bfloat16
from llama_index_instruct.embedders.positions import padding, positions, surroundings
from llama_index_instruct.incontext.groups import BOUNDED_TEMPERATURE, GroupCollator, TrainingSet
from llama_index_instruct.incontext.mined import as_dataset
from llama_index_instruct.incontext.objective import contrast, distillation, group_contrast
from llama_index_instruct.incontext.prompts import InContextTokenizer
from llama_index_instruct.incontext.template import InContextTemplate, find_template
from llama_index_instruct.models import loading, resolve_model
from llama_index_instruct.training_runs import trainer_arguments

if TYPE_CHECKING:
    from sentence_transformers.base.evaluation import BaseEvaluator
    from transformers import PreTrainedTokenizerFast

    from llama_index_instruct.incontext.training_settings import InContextTrainingSettings


class GroupLoss(nn.Module):
    """InfoNCE plus soft labels over groups of one query, its positive and its negatives.

    Args:
        model: Turns features into embeddings.
        settings: Temperatures and the soft term's weight.
        rows: Of the set: whether other rows' passages are negatives, and the range of the teacher's scores.
    """

    def __init__(self, model: SentenceTransformer, settings: InContextTrainingSettings, rows: TrainingSet) -> None:
        super().__init__()
        self.model = model
        self._settings = settings
        self._in_batch = rows.in_batch
        self._teacher_temperature = settings.teacher_temperature or (BOUNDED_TEMPERATURE if rows.bounded else 1.0)

    def forward(self, features: Sequence[dict[str, Tensor]], labels: Tensor | None) -> dict[str, Tensor]:
        """Return the two terms by name; the trainer adds them up and logs each.

        Args:
            features: Of b queries and of b * g documents.
            labels: Shape (b, g), the teacher's raw scores, or None.
        """
        known = features[1].pop("known", None)
        queries, documents = (functional.normalize(self._embed(part), dim=-1) for part in features)
        groups = documents.reshape(len(queries), -1, documents.shape[-1])
        temperature = self._settings.temperature
        terms = {
            "contrast": contrast(queries, groups, temperature, known)
            if self._in_batch
            else group_contrast(queries, groups, temperature)
        }
        if labels is not None and self._settings.soft_weight and groups.shape[1] > 1:
            soft = distillation(queries, groups, labels, temperature, self._teacher_temperature)
            terms["distillation"] = self._settings.soft_weight * soft
        return terms

    def _embed(self, features: dict[str, Tensor]) -> Tensor:
        embedding: Tensor = self.model(features)["sentence_embedding"]
        return embedding.float()


def prepare(
    sets: Sequence[TrainingSet],
    base: str,
    folder: Path,
    settings: InContextTrainingSettings,
    evaluators: Sequence[BaseEvaluator],
) -> SentenceTransformerTrainer:
    """Load the model, put adapters on it, and return a trainer about to start."""
    set_seed(settings.seed)
    template = find_template(settings.template)
    model = load_for_training(base, template)
    model.model_card_data.generate_widget_examples = False  # the card is ours
    tokenizer: Any = model.tokenizer
    if settings.lora_rank:
        _add_adapters(model, settings)
    body: Any = model.transformers_model
    if settings.gradient_checkpointing:
        # The second is the older name.
        getattr(body, "activation_checkpointing_enable", body.gradient_checkpointing_enable)()
    collator = GroupCollator(
        InContextTokenizer(
            tokenizer,
            template,
            window=positions(body.config),
            query_tokens=settings.query_tokens,
            passage_tokens=settings.passage_tokens,
            example_tokens=settings.example_tokens,
        ),
        {found.name: found for found in sets},
        settings.most_examples,
        settings.seed,
        int(tokenizer.pad_token_id or 0),
    )
    losses: dict[str, nn.Module] = {found.name: GroupLoss(model, settings, found) for found in sets}
    from datasets import DatasetDict

    return SentenceTransformerTrainer(
        model=model,
        args=_arguments(folder, settings, evaluates=bool(evaluators)),
        train_dataset=DatasetDict({found.name: as_dataset(found.columns()) for found in sets}),
        loss=losses,
        evaluator=list(evaluators) or None,
        data_collator=cast(Any, collator),
    )


def load_for_training(base: str, template: InContextTemplate) -> SentenceTransformer:
    """Load the model to start from: a sentence-transformers model as it is, any other with last-token pooling.

    Raises:
        ConfigurationError: If it cannot be loaded.
    """
    path = resolve_model(base)
    with loading(f"base model {base}"):
        if (Path(path) / "modules.json").is_file() or base.startswith("sentence-transformers/"):
            return SentenceTransformer(path)
        body = Transformer(path, model_kwargs={"dtype": torch.float32})
    tokenizer = padding(body.tokenizer)
    if template.adds_eos:
        append_end_token(tokenizer)
    width = body.get_embedding_dimension()
    return SentenceTransformer(modules=[body, Pooling(width, pooling_mode="lasttoken"), Normalize()])


def append_end_token(tokenizer: PreTrainedTokenizerFast) -> None:
    """Let a tokenizer close every text with its end token, if it has one and does not do so already."""
    from tokenizers.processors import TemplateProcessing

    before, behind = surroundings(tokenizer)
    if behind or tokenizer.eos_token_id is None:
        return
    opening = [str(token) for token in tokenizer.convert_ids_to_tokens(before)]
    closing = str(tokenizer.eos_token)
    known = [*zip(opening, before, strict=True), (closing, int(tokenizer.eos_token_id))]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*opening, "$A", closing], special_tokens=list(dict.fromkeys(known))
    )


def save_trained(
    trainer: SentenceTransformerTrainer, base: str, output: Path, settings: InContextTrainingSettings
) -> None:
    """Save the model with the adapters merged in, or the adapters alone."""
    model: Any = trainer.model
    if settings.lora_rank and settings.merge:
        whole = load_for_training(base, find_template(settings.template))
        whole_body: Any = whole.transformers_model
        whole_body.load_state_dict(_merged(model.transformers_model))
        model = whole
    model.save_pretrained(str(output), create_model_card=False)


def _merged(body: nn.Module) -> dict[str, Tensor]:
    """Return the weights with the adapters merged in, under the names they have without adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in body.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    return {
        name.replace(".base_layer.", "."): weight for name, weight in body.state_dict().items() if ".lora_" not in name
    }


def _add_adapters(model: SentenceTransformer, settings: InContextTrainingSettings) -> None:
    from peft import LoraConfig, TaskType
    from transformers.pytorch_utils import Conv1D

    model.add_adapter(
        LoraConfig(
            task_type=TaskType.FEATURE_EXTRACTION,
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules="all-linear",
            # GPT-2 keeps its weights the other way round.
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        )
    )


def _arguments(
    folder: Path, settings: InContextTrainingSettings, *, evaluates: bool
) -> SentenceTransformerTrainingArguments:
    bf16 = multiplies_bfloat16(torch.device(default_device())) if settings.bf16 is None else settings.bf16
    evaluation: dict[str, Any] = {"eval_strategy": "no"}
    if evaluates and settings.eval_steps:
        evaluation = {"eval_strategy": "steps", "eval_steps": settings.eval_steps}
    elif evaluates:
        evaluation = {"eval_strategy": "epoch"}
    return SentenceTransformerTrainingArguments(
        **trainer_arguments(folder, settings),
        bf16=bf16,
        **evaluation,
    )
