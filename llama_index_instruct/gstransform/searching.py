"""The search matrix: one ordinary nearest-neighbour query over untouched vectors that ranks like the transformed cosine.

For a linear map W, (W q) . (W d) = (W^T W q) . d, but the cosine also divides by |W d|, which no query vector can. A matrix A,
fitted by ridge regression from vectors to their *normalised* transformed vectors, stands in: d . (A z_q) is close to
cos(z_d, z_q) up to a constant, with z_q the normalised transformed query. (This project's own; see design in the README.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llama_index_instruct.rows import unit_rows

FloatArray = npt.NDArray[np.float64]

# In units of one text; the regression has as many texts as were sampled, so it needs little.
PENALTY = 1.0


def fit_search_matrix(vectors: FloatArray, transformed: FloatArray) -> FloatArray:
    """Return A, shape (d, h).

    Args:
        vectors: Inputs as they lie in the store, shape (n, d).
        transformed: What the map makes of them, shape (n, h); normalised here.
    """
    unit = unit_rows(transformed)
    centred = vectors - vectors.mean(axis=0)
    gram = centred.T @ centred
    # Relative, too: where lengths mean something, the penalty may vanish beside them.
    gram[np.diag_indices(len(gram))] += PENALTY + 1e-10 * np.trace(gram) / len(gram)
    return np.asarray(np.linalg.solve(gram, centred.T @ (unit - unit.mean(axis=0))))
