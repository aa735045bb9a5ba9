"""The README of a trained checkpoint."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_index_instruct.inbedder.triples import QATriple


def write_model_card(
    folder: Path,
    base: str,
    encoder: str,
    triples: Sequence[QATriple],
    settings: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    data_notes: str,
) -> None:
    """Write ``README.md``: what was trained, on what, under which licences, and how the loss went."""
    sources = Counter(triple.source or "unnamed" for triple in triples)
    table = "\n".join(f"| {name} | {count:,} |" for name, count in sources.most_common())
    losses = [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]
    shown = sorted({*losses[:: max(1, len(losses) // 8)], *losses[-1:]})
    (folder / "README.md").write_text(
        f"""# An InBedder checkpoint

Embeds the expected answer to an instruction (InBedder, arXiv 2402.09642). Trained with llama-index-instruct from
`{_public_name(base)}`, contrastive targets from `{_public_name(encoder)}`.

Use: `InBedderEmbedding(model_name="{folder.name}", instruction="...")`.

## Data

| source | triples |
|---|---|
{table}

{data_notes or "The licences of the sources were not given to the trainer: add them here before publishing."}

## Settings

```json
{json.dumps(settings, indent=2)}
```

## Training loss

{", ".join(f"step {step}: {loss:.3f}" for step, loss in shown) or "not logged: fewer steps than one logging interval"}
""",
        encoding="utf-8",
    )


def _public_name(model: str) -> str:
    """Return a Hub name whole, of a folder only its own name."""
    return Path(model).name if Path(model).expanduser().is_dir() else model
