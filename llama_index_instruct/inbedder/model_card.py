"""The README of a trained checkpoint."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index_instruct.training_runs import loss_line, public_name

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
    (folder / "README.md").write_text(
        f"""# An InBedder checkpoint

Embeds the expected answer to an instruction (InBedder, arXiv 2402.09642). Trained with llama-index-instruct from
`{public_name(base)}`, contrastive targets from `{public_name(encoder)}`.

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

{loss_line(log)}
""",
        encoding="utf-8",
    )
