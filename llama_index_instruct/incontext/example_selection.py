"""Which of many known pairs to show for a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.rows import unit_rows

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

    from llama_index_instruct.incontext.template import Example

SAME = 0.95
"""Queries this similar say the same; a second one would only cost tokens."""


def nearest_examples(
    pool: Sequence[Example], queries: Sequence[str], embed_model: BaseEmbedding, *, count: int = 5
) -> list[Example]:
    """Return the pairs of a pool whose queries are nearest to some queries of the task, nearest first.

    They are picked per task and not per query: what all queries begin with alike is computed once. A near-copy of a query
    already picked is passed over.

    Args:
        pool: Known pairs of a query and a passage that answers it.
        queries: A few typical queries of the task.
        embed_model: Compares them; any will do.
        count: How many; fewer if the pool has not as many different ones.

    Raises:
        ConfigurationError: If there are no queries, or the count is below 1.

    Example:
        >>> examples = nearest_examples(pool, ["it hums all night"], embed_model, count=3)  # doctest: +SKIP
        >>> embedding = embedding.with_task(embedding.task, examples)  # doctest: +SKIP
    """
    if not queries:
        raise ConfigurationError("queries: expected a few of the task, found none")
    if count < 1:
        raise ConfigurationError(f"count: expected 1 or more, found {count}")
    if not pool:
        return []
    texts = [*(query for query, _ in pool), *queries]
    vectors = unit_rows(np.array(embed_model.get_text_embedding_batch(texts), dtype=np.float32))
    known, asked = vectors[: len(pool)], vectors[len(pool) :]
    picked: list[int] = []
    for row in np.argsort(-(known @ asked.mean(axis=0)), kind="stable").tolist():
        if all(float(known[row] @ known[other]) < SAME for other in picked):
            picked.append(row)
        if len(picked) == count:
            break
    return [pool[row] for row in picked]
