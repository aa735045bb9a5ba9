"""Where a local model runs, in which number format, and how many tokens it takes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import torch

# Small batches keep a CPU's caches and pad little; an accelerator wants work.
CPU_BATCH_TOKENS = 1024
BATCH_TOKENS = 16_384


def batch_tokens(device: torch.device) -> int:
    """Return how many tokens, padding included, make a good batch."""
    return CPU_BATCH_TOKENS if device.type == "cpu" else BATCH_TOKENS


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the number format of this name; see ``load_encoder``."""
    import torch

    if name != "auto":
        return cast("torch.dtype", getattr(torch, name))
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Tell whether a device has instructions for bfloat16, rather than emulating it."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def default_device() -> str:
    """Return the accelerator of this machine, else the CPU."""
    import torch

    return str(torch.accelerator.current_accelerator() or "cpu") if torch.accelerator.is_available() else "cpu"
