"""Eight-bit weights: a small model that travels inside a package.

Every matrix is kept as int8 with one float32 scale per row (symmetric, round to nearest), everything else as float16; half
the size of half precision. It is widened when loaded: the model computes in floating point.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama_index_instruct.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

QUANTIZED_FILE = "model.int8.safetensors"
SCALE = ".scale"


def is_quantized(folder: str) -> bool:
    """Tell whether a folder holds eight-bit weights."""
    return (Path(folder) / QUANTIZED_FILE).is_file()


def quantize(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return int8 matrices with their row scales, and float16 for everything else."""
    packed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.ndim != 2:
            packed[name] = weight.half().contiguous()
            continue
        scale = (weight.float().abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-12)
        packed[name] = (weight.float() / scale.float()).round().clamp(-127, 127).to(torch.int8)
        packed[name + SCALE] = scale
    return packed


def dequantize(packed: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights as ``dtype``; the opposite of ``quantize`` up to rounding."""
    return {name: _widened(packed, name).to(dtype) for name in packed if not name.endswith(SCALE)}


def _widened(packed: Mapping[str, Tensor], name: str) -> Tensor:
    weight = packed[name]
    if weight.dtype != torch.int8:
        return weight
    if name + SCALE not in packed:
        raise ConfigurationError(f"{name}: expected its scales beside the eight-bit weights, found none")
    return weight.float() * packed[name + SCALE].float()


def save_quantized(model: PreTrainedModel, folder: str | Path) -> None:
    """Save configuration and eight-bit weights of a masked model; tied weights once."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tied = set(model.all_tied_weights_keys)
    save_file(
        quantize({name: weight for name, weight in model.state_dict().items() if name not in tied}),
        folder / QUANTIZED_FILE,
        metadata={"format": "pt"},
    )
    model.config.save_pretrained(folder)


def load_quantized(folder: str, dtype: torch.dtype) -> PreTrainedModel:
    """Load a masked model saved by ``save_quantized``.

    Raises:
        ConfigurationError: If weights are missing or do not fit the configuration.
    """
    from transformers import AutoConfig, AutoModelForMaskedLM

    config = AutoConfig.from_pretrained(folder)
    model = cast(Any, AutoModelForMaskedLM).from_config(config, dtype=dtype)
    weights = dequantize(load_file(Path(folder) / QUANTIZED_FILE), dtype)
    tied = set(model.all_tied_weights_keys)
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ConfigurationError(f"{folder}: weights do not fit the configuration ({error})") from error
    absent = [name for name in missing if name not in tied]
    if absent or unexpected:
        raise ConfigurationError(f"{folder}: weights missing {absent[:3]}, unexpected {unexpected[:3]}")
    model.tie_weights()
    return cast("PreTrainedModel", model)
