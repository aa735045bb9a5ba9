"""LlamaIndex's linear adapter, trained as ``EmbeddingAdapterFinetuneEngine`` does by default, on vectors already encoded.

The engine of llama-index-finetuning 0.4.2 trains a square matrix on the query side: AdamW, learning rate 2e-5, one epoch,
batches of 10 in the given order, in-batch negatives over cosine times 20, linear warm-up over a tenth of the steps, gradients
clipped at 1. It encodes every text at every step; here vectors are looked up, which changes the time and not the result.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

LEARNING_RATE = 2e-5
BATCH = 10
SCALE = 20.0
WARM_UP = 0.1


def train_linear_adapter(queries: FloatArray, documents: FloatArray) -> FloatArray:
    """Return the query-side matrix, shape (d, d).

    Args:
        queries: Vectors of the queries, shape (n, d).
        documents: Vector of each one's relevant document, shape (n, d).
    """
    import torch
    from transformers import get_linear_schedule_with_warmup

    size = queries.shape[1]
    layer = torch.nn.Linear(size, size, bias=False)
    torch.nn.init.eye_(layer.weight)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=LEARNING_RATE)
    steps = -(-len(queries) // BATCH)
    schedule = get_linear_schedule_with_warmup(optimiser, int(WARM_UP * steps), steps)  # type: ignore[no-untyped-call]
    for start in range(0, len(queries), BATCH):
        asked = torch.nn.functional.normalize(layer(torch.from_numpy(queries[start : start + BATCH])), dim=1)
        found = torch.nn.functional.normalize(torch.from_numpy(documents[start : start + BATCH]), dim=1)
        loss = torch.nn.functional.cross_entropy(SCALE * asked @ found.T, torch.arange(len(asked)))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return np.asarray(layer.weight.detach().numpy(), dtype=np.float32)


def pair_by_label(codes: npt.NDArray[np.intp], seed: int) -> npt.NDArray[np.intp]:
    """Return, per text, another text of its label, as the relevant document the adapter wants; itself if it is alone."""
    generator = np.random.default_rng(seed)
    partner = np.arange(len(codes))
    for code in np.unique(codes):
        rows = generator.permutation(np.flatnonzero(codes == code))
        partner[rows] = np.roll(rows, 1)
    return partner
