"""What every training of this package shares: going on from checkpoints of the same run, and lines for model cards."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from llama_index_instruct.errors import ConfigurationError

SHOWN_LOSSES = 8


class _RunSettings(Protocol):
    """What the settings of every training have."""

    @property
    def epochs(self) -> float: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def save_steps(self) -> int: ...
    @property
    def seed(self) -> int: ...


def trainer_arguments(folder: Path, settings: _RunSettings) -> dict[str, Any]:
    """Return what Hugging Face's ``TrainingArguments`` and its subclasses are given in every training."""
    import torch

    return {
        "output_dir": str(folder),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "use_cpu": not torch.accelerator.is_available(),
        "seed": settings.seed,
        "save_steps": settings.save_steps,
        "save_total_limit": 1,
        "logging_steps": 20,
        "report_to": [],
    }


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest checkpoint of a folder, None where there is none."""
    from transformers.trainer_utils import get_last_checkpoint

    return cast(Any, get_last_checkpoint)(str(folder)) if folder.is_dir() else None


def matching_checkpoint(folder: Path, digest: str, *, resume: bool) -> str | None:
    """Return the checkpoint to go on from, and note whose checkpoints the folder will hold.

    Args:
        folder: Of the checkpoints.
        digest: What tells this run from others: its data, base and settings.
        resume: Whether to go on at all.

    Raises:
        ConfigurationError: If the checkpoints belong to another run.
    """
    note = folder / "run.txt"
    found = last_checkpoint(folder) if resume else None
    if found is not None and (not note.is_file() or note.read_text(encoding="utf-8") != digest):
        raise ConfigurationError(
            f"{folder}: expected checkpoints of this run, found those of one with other data, base or settings; give another "
            "output folder, or resume=False to start anew"
        )
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(digest, encoding="utf-8")
    return found


def check_single_process() -> None:
    """Raise a ``ConfigurationError`` where several processes train: the contrastive terms compare within one batch."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigurationError("training: expected one process; the contrastive terms compare within one batch")


def public_name(model: str) -> str:
    """Return a Hub name whole, of a folder only its own name."""
    return Path(model).name if Path(model).expanduser().is_dir() else model


def loss_line(log: Sequence[Mapping[str, Any]]) -> str:
    """Return some of the logged losses, first to last, in one line."""
    losses = [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]
    shown = sorted({*losses[:: max(1, len(losses) // SHOWN_LOSSES)], *losses[-1:]})
    return (
        ", ".join(f"step {step}: {float(loss):.3f}" for step, loss in shown)
        or "not logged: fewer steps than one logging interval"
    )
