"""The README of a trained checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index_instruct.training_runs import loss_line, public_name

if TYPE_CHECKING:
    from llama_index_instruct.incontext.groups import TrainingSet


def write_model_card(
    folder: Path,
    base: str,
    sets: Sequence[TrainingSet],
    settings: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    data_notes: str,
) -> None:
    """Write ``README.md``: what was trained, on what, under which licences, how the loss and the evaluations went."""
    table = "\n".join(
        f"| {found.name} | {found.kind} | {len(found.rows):,} | {len(found.rows[0].negatives)} | "
        f"{'yes' if found.rows[0].scores else 'no'} | {found.task or '-'} | {found.notes or 'not given'} |"
        for found in sets
    )
    (folder / "README.md").write_text(
        f"""---
library_name: sentence-transformers
tags: [sentence-transformers, llama-index-instruct, feature-extraction]
---

# An in-context embedding checkpoint

Trained with llama-index-instruct from `{public_name(base)}` by the recipe of LG-ANNA (arXiv 2506.07438): InfoNCE and
soft labels, 0 to {settings["most_examples"]} examples per query.

Use: `InContextEmbedding("{folder.name}", task="...", examples=[...], template="{settings["template"]}")`, or
`SentenceTransformer("{folder.name}")` over whole prompts.

## Data

| set | kind | rows | negatives | soft scores | task | source and licence |
|---|---|---|---|---|---|---|
{table}

{data_notes or "Where licences are not given above, add them before publishing."}

## Settings

```json
{json.dumps(settings, indent=2)}
```

## Training loss

{loss_line(log)}

## Evaluations during training

{_evaluations(log)}
""",
        encoding="utf-8",
    )


def _evaluations(log: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (entry["step"], name.removeprefix("eval_"), value)
        for entry in log
        for name, value in entry.items()
        if name.startswith("eval_") and any(name.endswith(measure) for measure in ("ndcg@10", "map@100"))
    ]
    if not rows:
        return "None were asked for."
    return "| step | measure | value |\n|---|---|---|\n" + "\n".join(f"| {s} | {n} | {v:.4f} |" for s, n, v in rows)
