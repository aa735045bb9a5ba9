"""What a vector store says about the vectors it holds, asked before they are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_index_instruct.errors import ConfigurationError

if TYPE_CHECKING:
    from llama_index.core.vector_stores.types import BasePydanticVectorStore


@dataclass(frozen=True)
class StoreFacts:
    """What is known about a store.

    Attributes:
        name: For messages.
        dimension: Size of its vectors; None = not known.
        distance: Qdrant's name of its distance; None = not known.
        known: Whether the store could be asked, so that it need not be asked again.
    """

    name: str
    dimension: int | None = None
    distance: str | None = None
    known: bool = True


def describe_store(vector_store: BasePydanticVectorStore | None) -> StoreFacts:
    """Return what a store says; a Qdrant that cannot be asked is asked again next time, its error is the search's to raise."""
    if not _is_qdrant(vector_store):
        return _other(vector_store)
    store: Any = vector_store
    if store.client is None:
        return StoreFacts(f"collection {store.collection_name!r}", known=False)
    try:
        described = store.client.get_collection(store.collection_name)
    except Exception:
        return StoreFacts(f"collection {store.collection_name!r}", known=False)
    return _facts(store, described)


async def adescribe_store(vector_store: BasePydanticVectorStore | None) -> StoreFacts:
    """Asynchronous twin of ``describe_store``."""
    if not _is_qdrant(vector_store):
        return _other(vector_store)
    store: Any = vector_store
    client = getattr(store, "_aclient", None)
    if client is None:
        return StoreFacts(f"collection {store.collection_name!r}", known=False)
    try:
        described = await client.get_collection(store.collection_name)
    except Exception:
        return StoreFacts(f"collection {store.collection_name!r}", known=False)
    return _facts(store, described)


def dense_vector_name(vectors: Any, name: str) -> str | None:
    """Return the name under which a collection has a dense vector; None if it has no such vector.

    Args:
        vectors: ``config.params.vectors``: parameters of the unnamed vector, or a mapping from names to parameters.
        name: As asked for; "" = the unnamed vector, or the only one.
    """
    if not isinstance(vectors, dict):
        return "" if not name and vectors is not None else None
    if name in vectors:
        return name
    return str(next(iter(vectors))) if not name and len(vectors) == 1 else None


def dense_vector_params(vectors: Any, name: str, collection: str) -> tuple[str, Any]:
    """Return the true name and the parameters of a collection's dense vector.

    Args:
        vectors: As for ``dense_vector_name``.
        name: Likewise.
        collection: What it is called in the message.

    Raises:
        ConfigurationError: If the collection has no such vector.
    """
    found = dense_vector_name(vectors, name)
    if found is None:
        names = ", ".join(map(repr, vectors)) if isinstance(vectors, dict) else "the unnamed one"
        raise ConfigurationError(
            f"collection {collection!r}: expected a dense vector {name!r}, it has {names}; set vector_name"
        )
    return found, vectors[found] if isinstance(vectors, dict) else vectors


def dense_vector(stored: Any, name: str) -> Any:
    """Return one dense vector of a retrieved or scrolled point; None if it has none.

    Args:
        stored: ``point.vector``: a list of numbers, or a mapping from names to vectors, sparse ones among them.
        name: Its true name, see ``dense_vector_name``.
    """
    return stored.get(name) if isinstance(stored, dict) else stored


def _facts(store: Any, described: Any) -> StoreFacts:
    # The store learns the name of its dense vector when it first sees the collection, so it is read at call time.
    vectors = described.config.params.vectors
    name = dense_vector_name(vectors, store.dense_vector_name)
    if name is None:
        name = dense_vector_name(vectors, "")
    label = f"collection {store.collection_name!r}"
    if name is None:
        return StoreFacts(label)
    params = vectors[name] if isinstance(vectors, dict) else vectors
    return StoreFacts(label, dimension=params.size, distance=params.distance.value)


def _is_qdrant(vector_store: BasePydanticVectorStore | None) -> bool:
    return vector_store is not None and vector_store.class_name() == "QdrantVectorStore"


def _other(vector_store: BasePydanticVectorStore | None) -> StoreFacts:
    return StoreFacts("the store" if vector_store is None else type(vector_store).__name__)
