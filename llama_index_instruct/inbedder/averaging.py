"""The mean of several checkpoints' weights: one model that keeps more of what each knew.

Checkpoints trained from one another, or from a common start, lie in one basin of the loss, where the mean of their weights is
often better than each of them (model soups, arXiv 2203.05482).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.models import loading, resolve_model
from llama_index_instruct.training_runs import public_name

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def average_models(
    models: Sequence[str], output: str | Path, *, weights: Sequence[float] | None = None, eight_bit: bool = False
) -> Path:
    """Save the weighted mean of checkpoints, ready for ``InBedderEmbedding(output)``.

    All are held in float32, two at a time, and saved so.

    Args:
        models: Folders or Hub names of masked or causal models of one architecture and vocabulary, trained with one template
            and as many masks; configuration and tokenizer are the first one's.
        output: Folder of the result, new or empty: weights left there in another format would be read in its place.
        weights: One per model, above 0; they are brought to the sum 1. None: all alike.
        eight_bit: Save int8 matrices, a quarter of the size; masked models only.

    Raises:
        ConfigurationError: If the models do not fit each other, a weight is not positive, the output is not empty, or eight
            bits are asked of a causal model.
    """
    from llama_index_instruct.embedders.positions import load_tokenizer
    from llama_index_instruct.inbedder.weights import save_quantized

    shares, output = _shares(models, weights), Path(output)
    if output.is_dir() and any(output.iterdir()):
        raise ConfigurationError(f"{output}: expected a new or empty folder")
    first, tokenizer = _load(models[0]), load_tokenizer(resolve_model(models[0]))
    if eight_bit and _kind(first) != "masked":
        raise ConfigurationError(f"eight_bit: expected a masked model, found a {_kind(first)} one")
    mean, wanted = _numbers(first), _traits(first, tokenizer)
    for value in mean.values():
        value.mul_(shares[0])
    for name, share in zip(models[1:], shares[1:], strict=True):
        other = _load(name)
        if _traits(other, load_tokenizer(resolve_model(name))) != wanted:
            raise ConfigurationError(
                f"{name}: expected the architecture, vocabulary and template of {models[0]}, found others"
            )
        for key, value in _numbers(other).items():
            mean[key].add_(value, alpha=share)
    if eight_bit:
        save_quantized(first, output)
    else:
        first.save_pretrained(output)
    tokenizer.save_pretrained(output)
    _write_card(output, models, shares)
    return output


def _shares(models: Sequence[str], weights: Sequence[float] | None) -> list[float]:
    if not models:
        raise ConfigurationError("models: expected at least one, found none")
    given = list(weights) if weights is not None else [1.0] * len(models)
    if len(given) != len(models) or not all(0.0 < weight < float("inf") for weight in given):
        raise ConfigurationError(f"weights: expected {len(models)} numbers above 0, found {given}")
    return [weight / sum(given) for weight in given]


def _load(model: str) -> PreTrainedModel:
    import torch
    from transformers import AutoConfig

    from llama_index_instruct.inbedder.loading import load_model, model_kind
    from llama_index_instruct.inbedder.weights import is_quantized, load_quantized

    path = resolve_model(model)
    with loading(f"model {model}"):
        if is_quantized(path):
            return load_quantized(path, torch.float32)
        kind = model_kind(AutoConfig.from_pretrained(path))
        if kind == "seq2seq":
            raise ConfigurationError(f"{model}: expected a masked or causal model, found an encoder-decoder")
        return load_model(path, kind, dtype=torch.float32)


def _kind(model: PreTrainedModel) -> str:
    from llama_index_instruct.inbedder.loading import model_kind

    return model_kind(model.config)


def _numbers(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the model's own tensors, tied ones once: what is done to them is done to the model."""
    tied = set(cast(Any, model).all_tied_weights_keys)
    state = model.state_dict()
    return {name: value for name, value in state.items() if value.is_floating_point() and name not in tied}


def _traits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> tuple[object, ...]:
    shapes = {name: value.shape for name, value in _numbers(model).items()}
    return _kind(model), shapes, tokenizer.get_vocab(), getattr(model.config, "inbedder", None)


def _write_card(folder: Path, models: Sequence[str], shares: Sequence[float]) -> None:
    parts = "\n".join(f"- {share:.2f} of `{public_name(name)}`" for name, share in zip(models, shares, strict=True))
    (folder / "README.md").write_text(
        f"# An InBedder checkpoint\n\nThe mean of the weights of\n\n{parts}\n\nmade with `llama-index-instruct train average`. "
        "Data and licences are those of its parts.\n",
        encoding="utf-8",
    )
