"""GSTransform: a map that re-shapes stored vectors for one instruction."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import (
    ConfigurationError,
    DimensionMismatchError,
    IncompatibleStoreError,
    TransformFileError,
)
from llama_index_instruct.gstransform.classes import Label, classes_of
from llama_index_instruct.gstransform.fingerprint import agrees
from llama_index_instruct.gstransform.fitting import Method, Settings, fit_map
from llama_index_instruct.gstransform.info import TransformInfo, checked_info
from llama_index_instruct.gstransform.storage import TENSORS, read_transform, write_transform
from llama_index_instruct.rows import TINY, as_numbers, as_rows, similarities, unit_rows

if TYPE_CHECKING:
    from typing_extensions import Self

FloatArray = npt.NDArray[np.float32]
# Rows per product: larger blocks fall out of the cache and lose half the rate to page faults.
BLOCK = 8192
# Vectors that a store normalised differ from 1 by float32 rounding only, and are not divided again.
UNIT_ERROR = 5e-7


@dataclass(frozen=True, eq=False)
class GSTransform:
    """A map z = W x + b on (unit) vectors, fitted once per instruction; compare its outputs by cosine.

    Attributes:
        layers: Weight (out, in) and bias (out,) of each layer, float32; two only for the released code's variant.
        search: Search matrix, shape (d, h); None for two layers.
        info: Where it comes from.
        fingerprint: Vectors of three probe texts by the embedding model, shape (3, d); None = not known.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> vectors, labels = rng.normal(size=(40, 8)), ["good", "bad"] * 20
        >>> transform = GSTransform.from_labels(vectors, labels, instruction="Is it good?")
        >>> transform.transform(vectors).shape, transform.search_vector(vectors[0]).shape
        ((40, 10), (8,))
    """

    layers: tuple[tuple[FloatArray, FloatArray], ...]
    search: FloatArray | None
    info: TransformInfo
    fingerprint: FloatArray | None = None

    @classmethod
    def from_labels(
        cls,
        vectors: npt.ArrayLike,
        labels: Sequence[Label] | npt.NDArray[np.generic],
        *,
        instruction: str = "",
        method: Method = "ridge",
        settings: Settings | None = None,
        unlabelled: npt.ArrayLike | None = None,
        label_names: Sequence[str] | None = None,
        output_dimension: int | None = None,
        normalize: bool = True,
        seed: int = 0,
        embed_model: str = "",
        distance: str = "",
        fingerprint: FloatArray | None = None,
    ) -> Self:
        """Fit a transform on vectors and labels.

        Args:
            vectors: Stored vectors, shape (n, d).
            labels: n labels, ``None`` = unknown; or soft labels, shape (n, C).
            instruction: What the labels say about a text; only recorded.
            method: ``"ridge"`` (default; class directions over a damped identity, closed form), ``"fisher"`` (discriminant
                analysis), ``"contrastive"`` (the paper's linear encoder, trained), ``"contrastive-mlp"`` (the released
                two-layer one, for comparison: it cannot search).
            settings: ``RidgeSettings``, ``FisherSettings`` or ``ContrastiveSettings``; None = the method's defaults.
            unlabelled: Further vectors of the collection, shape (m, d); ``"ridge"`` learns from them too, others do not.
            label_names: Names of the columns of soft labels.
            output_dimension: Keep so many of the strongest output directions. Linear methods; from d upwards (d + 1 for
                ``"contrastive"``) no cosine changes.
            normalize: Bring vectors to unit length before the map, here and always, so that it does not matter whether the
                store did. False makes the map exactly affine, for stores that keep the length and mean something by it.
            seed: Of whatever is random.
            embed_model: Name of the model that made the vectors; recorded and checked against the application's.
            distance: Qdrant's name of the collection's distance; recorded and checked.
            fingerprint: Of the embedding model; recorded and checked.

        Raises:
            ConfigurationError: If a setting or an input is out of range.
            DimensionMismatchError: If vectors and labels do not fit together.
        """
        rows = as_rows(vectors, "vectors")
        classes = classes_of(labels, label_names)
        names = classes.names
        counts = classes.counts
        if unlabelled is not None:
            more = as_rows(unlabelled, "unlabelled")
            if more.shape[1] != rows.shape[1]:
                raise DimensionMismatchError(
                    f"unlabelled: expected vectors of size {rows.shape[1]}, found {more.shape[1]}"
                )
            if len(rows) == len(classes.membership):
                rows = np.vstack([rows, more])
                classes = replace(
                    classes, membership=np.vstack([classes.membership, np.zeros((len(more), len(names)))])
                )
        prepared = unit_rows(rows) if normalize else rows
        fitted = fit_map(
            prepared.astype(np.float64),
            classes,
            method=method,
            settings=settings,
            output_dimension=output_dimension,
            seed=int(seed),
        )
        return cls(
            layers=tuple((_float32(weight), _float32(bias)) for weight, bias in fitted.layers),
            search=None if fitted.search is None else _float32(fitted.search),
            info=TransformInfo(
                instruction=instruction,
                method=method,
                embed_model=embed_model,
                distance=distance,
                normalized=normalize,
                scale=fitted.scale,
                labels=dict(zip(names, (round(float(count), 6) for count in counts), strict=True)),
                losses=fitted.losses,
                seed=int(seed),
                version=_version(),
            ),
            fingerprint=None if fingerprint is None else _float32(fingerprint),
        )

    @property
    def input_dimension(self) -> int:
        """Return d."""
        return int(self.layers[0][0].shape[1])

    @property
    def output_dimension(self) -> int:
        """Return h."""
        return int(self.layers[-1][0].shape[0])

    @property
    def is_linear(self) -> bool:
        """Return whether the map is one matrix and a bias, so that it can search."""
        return len(self.layers) == 1

    @property
    def explained(self) -> float | None:
        """Return how much of the labels the vectors tell, from 0 to 1, each labelled text foretold from the others.

        Near 0 the embedding model does not see what the instruction asks for, and no map of its vectors can help. Known after
        ``method="ridge"`` only.
        """
        error = self.info.losses.get("leave_one_out_error")
        return None if error is None else max(0.0, 1.0 - float(error))

    def transform(self, vectors: npt.ArrayLike, *, out: FloatArray | None = None) -> FloatArray:
        """Return the transformed vectors, shape (n, h), float32.

        Args:
            vectors: Shape (n, d), any floating type and layout; never written to. Rows of NaN stay NaN; a row of zeros is
                mapped as it is.
            out: Where to write, shape (n, h), float32; a new array by default.

        Raises:
            DimensionMismatchError: If the vectors, or ``out``, have another shape.
        """
        rows = as_numbers(vectors, "vectors")
        if rows.ndim != 2 or rows.shape[1] != self.input_dimension:
            raise DimensionMismatchError(
                f"vectors: transform expects shape (n, {self.input_dimension}), found {rows.shape}"
            )
        shape = (len(rows), self.output_dimension)
        if out is None:
            out = np.empty(shape, dtype=np.float32)
        elif out.shape != shape or out.dtype != np.float32:
            raise DimensionMismatchError(f"out: expected shape {shape}, float32, found {out.shape}, {out.dtype}")
        for start in range(0, len(rows), BLOCK):
            self._apply(rows[start : start + BLOCK], out[start : start + BLOCK])
        return out

    def transform_query(self, query: npt.ArrayLike) -> FloatArray:
        """Return one transformed vector of unit norm, shape (h,).

        Raises:
            ConfigurationError: If the query is zero, not finite, or maps to zero.
        """
        vector = as_numbers(query, "query").astype(np.float32)
        if vector.ndim != 1:
            raise DimensionMismatchError(f"query: expected shape ({self.input_dimension},), found {vector.shape}")
        if not np.isfinite(vector).all() or not vector.any():
            raise ConfigurationError("query: expected a finite vector that is not zero")
        z = self.transform(vector[None, :])[0]
        norm = float(np.linalg.norm(z.astype(np.float64)))
        if not np.isfinite(norm) or norm == 0.0:
            raise ConfigurationError("query: the transform maps it to zero; it says nothing about this instruction")
        return np.asarray(z / norm, dtype=np.float32)

    def search_vector(self, query: npt.ArrayLike) -> FloatArray:
        """Return the vector with which an untouched store is searched as if it were transformed, shape (d,), unit norm.

        The dot product with it ranks nearly like the cosine of the transformed vectors: over-fetch, then score exactly.

        Raises:
            ConfigurationError: If the transform has two layers, or the query says nothing.
            DimensionMismatchError: If the query has another size.
        """
        if self.search is None:
            raise ConfigurationError(
                'search_vector: needs a linear transform; method "contrastive-mlp" is for comparison only, fit with "ridge"'
            )
        vector = self.search @ self.transform_query(query)
        norm = float(np.linalg.norm(vector))
        if norm == 0.0 or not np.isfinite(norm):
            raise ConfigurationError("query: its search vector is zero; it says nothing about this instruction")
        return np.asarray(vector / norm, dtype=np.float32)

    def similarity(self, query: npt.ArrayLike, vectors: npt.ArrayLike) -> FloatArray:
        """Return the cosines of the transformed query (d,) and vectors (n, d), shape (n,); NaN for rows of NaN, 0 for zeros."""
        return self.similarity_to(self.transform_query(query), vectors)

    def similarity_to(self, transformed: FloatArray, vectors: npt.ArrayLike) -> FloatArray:
        """Return the same for a query that ``transform_query`` has transformed, shape (h,)."""
        rows = as_numbers(vectors, "vectors")
        scores = similarities(transformed, self.transform(rows))
        # A vector without direction is like nothing, wherever the bias puts it.
        scores[~rows.any(axis=1)] = 0.0
        return scores

    def check_store(self, *, name: str, dimension: int | None = None, distance: str | None = None) -> None:
        """Refuse a store whose vectors this transform was not fitted for.

        Args:
            name: What the store is called in the message.
            dimension: Size of its vectors, if known.
            distance: Qdrant's name of its distance, if known.

        Raises:
            DimensionMismatchError: If the size differs.
            IncompatibleStoreError: If the distance does.
        """
        if dimension is not None and dimension != self.input_dimension:
            raise DimensionMismatchError(
                f"transform expects {self.input_dimension}, {name} has {dimension}: it was fitted on vectors of another model"
            )
        if distance and self.info.distance and distance != self.info.distance:
            raise IncompatibleStoreError(
                f"transform was fitted on {self.info.distance} vectors, {name} has distance {distance}; "
                "fit it on that collection"
            )
        if distance == "Cosine" and not self.info.normalized:
            raise IncompatibleStoreError(
                f"transform was fitted with normalize=False, but {name} has distance Cosine and stores unit vectors; fit it "
                "with normalize=True"
            )

    def matches(self, fingerprint: FloatArray) -> bool:
        """Return whether an embedding model with this fingerprint made the vectors; True where nothing is known."""
        return self.fingerprint is None or agrees(self.fingerprint, fingerprint)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write ``config.json`` and ``model.safetensors``; an old transform there is replaced whole or not at all."""
        tensors: dict[str, FloatArray] = {}
        for number, (weight, bias) in enumerate(self.layers):
            tensors[f"layers.{number}.weight"], tensors[f"layers.{number}.bias"] = weight, bias
        if self.search is not None:
            tensors["search"] = self.search
        if self.fingerprint is not None:
            tensors["fingerprint"] = self.fingerprint
        shapes = {name: list(array.shape) for name, array in tensors.items()}
        write_transform(
            Path(folder),
            {"input_dimension": self.input_dimension, "output_dimension": self.output_dimension, **asdict(self.info)}
            | {"tensors": shapes},
            tensors,
        )

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Self:
        """Read a transform that ``save_pretrained`` wrote.

        Raises:
            TransformFileError: If the folder holds none, or a damaged one; the message names the file.
        """
        path = Path(folder)
        config, tensors = read_transform(path)
        shapes = {name: list(array.shape) for name, array in tensors.items()}
        if config.get("tensors") != shapes:
            raise TransformFileError(
                f"{path}: config and {TENSORS} disagree on the tensors: {config.get('tensors')} and {shapes}"
            )
        try:
            info = checked_info(config)
            count = sum(name.endswith(".weight") for name in tensors)
            layers = tuple((tensors[f"layers.{n}.weight"], tensors[f"layers.{n}.bias"]) for n in range(count))
            loaded = cls(layers, tensors.get("search"), info, tensors.get("fingerprint"))
            stated = (config["input_dimension"], config["output_dimension"])
            if stated != (loaded.input_dimension, loaded.output_dimension) or not _fit_together(loaded):
                raise TransformFileError(f"{path}: config says {stated}, the weights have shapes {shapes}")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise TransformFileError(f"{path}: incomplete or foreign transform ({error!r})") from error
        return loaded

    @property
    def digest(self) -> str:
        """Return a hash of the map and its input scaling, by which a half-done collection knows its transform again."""
        state = hashlib.sha256(repr((self.info.normalized, self.info.scale)).encode())
        for weight, bias in self.layers:
            state.update(weight.tobytes() + bias.tobytes())
        return state.hexdigest()

    def _apply(self, rows: npt.NDArray[Any], out: FloatArray) -> None:
        if rows.dtype == np.float64 and self.info.normalized:
            rows = unit_rows(rows)  # before float32 cuts off what is very long or short
        with np.errstate(over="ignore"):
            block = np.asarray(rows, dtype=np.float32)
        norms = None
        if self.info.normalized:
            norms = np.sqrt(np.einsum("ij,ij->i", block, block))
            if self.is_linear and np.isfinite(norms).all() and norms.min(initial=1.0) > TINY:
                # Dividing what comes out is the same as dividing what goes in, and writes no copy of the input.
                norms /= np.float32(self.info.scale)
            else:
                block, norms = unit_rows(block) * np.float32(self.info.scale), None
        elif self.info.scale != 1.0:
            block = block * np.float32(self.info.scale)
        with np.errstate(invalid="ignore", over="ignore"):  # rows that are not finite stay so
            for weight, bias in self.layers[:-1]:
                block = np.maximum(block @ weight.T + bias, 0.0)
            weight, bias = self.layers[-1]
            np.matmul(block, weight.T, out=out)
        if norms is not None and np.abs(norms - 1.0).max(initial=0.0) > UNIT_ERROR:
            out /= norms[:, None]
        out += bias


def _float32(array: npt.NDArray[Any]) -> FloatArray:
    return np.ascontiguousarray(array, dtype=np.float32)


def _fit_together(transform: GSTransform) -> bool:
    size = transform.input_dimension
    for weight, bias in transform.layers:
        if weight.ndim != 2 or weight.shape[1] != size or bias.shape != (weight.shape[0],):
            return False
        size = weight.shape[0]
    if transform.search is not None and transform.search.shape != (transform.input_dimension, size):
        return False
    probes = transform.fingerprint
    return probes is None or (probes.ndim == 2 and probes.shape[1] == transform.input_dimension)


def _version() -> str:
    from importlib.metadata import version

    return version("llama-index-instruct")
