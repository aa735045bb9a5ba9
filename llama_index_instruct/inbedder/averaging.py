"""The mean of several checkpoints' weights: one model that keeps more of what each knew.

Checkpoints trained from one another, or from a common start, lie in one basin of the loss, where the mean of their weights is
often better than each of them (model soups, arXiv 2203.05482).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.models import loading, resolve_model
from llama_index_instruct.training_runs import public_name

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def average_models(
    models: Sequence[str], output: str | Path, *, weights: Sequence[float] | None = None, eight_bit: bool = False
) -> Path:
    """Save the weighted mean of checkpoints, ready for ``InBedderEmbedding(output)``.

    Args:
        models: Folders or Hub names of masked or causal models of one architecture and vocabulary; configuration and tokenizer
            are the first one's.
        output: Folder of the result.
        weights: One per model, above 0; they are brought to the sum 1. None: all alike.
        eight_bit: Save int8 matrices, a quarter of the size; masked models only.

    Raises:
        ConfigurationError: If the models do not fit each other, a weight is not positive, or eight bits are asked of a
            causal model.
    """
    from llama_index_instruct.embedders.positions import load_tokenizer
    from llama_index_instruct.inbedder.weights import save_quantized

    shares = _shares(models, weights)
    first, kind = _load(models[0])
    if eight_bit and kind != "masked":
        raise ConfigurationError(f"eight_bit: expected a masked model, found a {kind} one")
    mean = {name: shares[0] * value.double() for name, value in _numbers(first).items()}
    for model, share in zip(models[1:], shares[1:], strict=True):
        _add(mean, _numbers(_load(model)[0]), share, model)
    first.load_state_dict({name: value.float() for name, value in mean.items()}, strict=False)
    output = Path(output)
    if eight_bit:
        save_quantized(first, output)
    else:
        first.save_pretrained(output)
    load_tokenizer(resolve_model(models[0])).save_pretrained(output)
    _write_card(output, models, shares)
    return output


def _shares(models: Sequence[str], weights: Sequence[float] | None) -> list[float]:
    if not models:
        raise ConfigurationError("models: expected at least one, found none")
    given = list(weights) if weights is not None else [1.0] * len(models)
    if len(given) != len(models) or not all(0.0 < weight < float("inf") for weight in given):
        raise ConfigurationError(f"weights: expected {len(models)} numbers above 0, found {given}")
    return [weight / sum(given) for weight in given]


def _load(model: str) -> tuple[PreTrainedModel, str]:
    import torch
    from transformers import AutoConfig

    from llama_index_instruct.inbedder.loading import load_model, model_kind
    from llama_index_instruct.inbedder.weights import is_quantized, load_quantized

    path = resolve_model(model)
    with loading(f"model {model}"):
        kind = model_kind(AutoConfig.from_pretrained(path))
        if is_quantized(path):
            return load_quantized(path, torch.float32), kind
        return load_model(path, kind, dtype=torch.float32), kind


def _numbers(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


def _add(mean: dict[str, Tensor], other: dict[str, Tensor], share: float, name: str) -> None:
    shapes = {key: value.shape for key, value in mean.items()}
    if shapes != {key: value.shape for key, value in other.items()}:
        raise ConfigurationError(f"{name}: expected the weights of the first model, found others in name or shape")
    for key, value in other.items():
        mean[key] += share * value.double()


def _write_card(folder: Path, models: Sequence[str], shares: Sequence[float]) -> None:
    parts = "\n".join(f"- {share:.2f} of `{public_name(name)}`" for name, share in zip(models, shares, strict=True))
    (folder / "README.md").write_text(
        f"# An InBedder checkpoint\n\nThe mean of the weights of\n\n{parts}\n\nmade with `llama-index-instruct train average`. "
        "Data and licences are those of its parts.\n",
        encoding="utf-8",
    )
