"""What a transform knows about where it comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TransformInfo:
    """What a transform knows about where it comes from; saved with it.

    Attributes:
        instruction: What the labels say about a text.
        method: How it was fitted.
        embed_model: Name of the model that made the vectors; empty = not known.
        distance: Qdrant's name of the distance of the collection it was fitted on; empty = not known.
        normalized: Whether vectors are brought to unit length before the map.
        scale: Factor on them after that.
        labels: Class names and (soft) counts of texts.
        losses: What the fit reports about itself.
        labelling: What making the labels did, lost and cost; see ``LabellingReport``.
        seed: Of the fit.
        version: Of this package.
    """

    instruction: str = ""
    method: str = "ridge"
    embed_model: str = ""
    distance: str = ""
    normalized: bool = True
    scale: float = 1.0
    labels: dict[str, float] = field(default_factory=dict)
    losses: dict[str, Any] = field(default_factory=dict)
    labelling: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    version: str = ""


def checked_info(config: Mapping[str, Any]) -> TransformInfo:
    """Return what a saved config says, if its values are of the right kind.

    Raises:
        KeyError: If a value is missing.
        TypeError: If a value is of another type.
        ValueError: If the scale is not a positive, finite number.
    """
    info = TransformInfo(**{name: config[name] for name in TransformInfo.__dataclass_fields__})
    kinds = {"instruction": str, "method": str, "embed_model": str, "distance": str, "normalized": bool, "seed": int}
    for name, kind in {**kinds, "version": str, "labels": dict, "losses": dict, "labelling": dict}.items():
        if not isinstance(getattr(info, name), kind):
            raise TypeError(f"{name}: expected {kind.__name__}, found {getattr(info, name)!r}")
    if isinstance(info.scale, bool) or not isinstance(info.scale, (int, float)):
        raise TypeError(f"scale: expected a number, found {info.scale!r}")
    if not (math.isfinite(info.scale) and info.scale > 0):
        raise ValueError(f"scale: expected a positive, finite number, found {info.scale}")
    return info
