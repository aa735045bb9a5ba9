"""LlamaIndex's embedding cache is keyed by the text alone; this view of one is keyed by the instruction too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from llama_index.core.storage.kvstore.types import DEFAULT_COLLECTION, BaseKVStore

Role = Literal["text", "query"]
_role: ContextVar[Role] = ContextVar("role", default="text")


@contextmanager
def as_query() -> Iterator[None]:
    """Keys made inside belong to queries, whose instruction may differ from that of texts."""
    token = _role.set("query")
    try:
        yield
    finally:
        _role.reset(token)


NOT_IN_KEYS = frozenset(
    {
        "device",
        "batch_tokens",
        "embed_batch_size",
        "num_workers",
        "callback_manager",
        "embeddings_cache",
        "rate_limiter",
        "cache_folder",
    }
)
"""Fields of embedding models on which no vector depends: how it is computed, and who watches."""


def settings_digest(settings: object) -> str:
    """Return a key for what vectors depend on; settings are anything JSON can write."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:32]


def guarded(store: Any, text_key: str, query_key: str | None = None) -> Any:
    """Return a cache seen through these keys; None and what is no key-value store come back as they are."""
    if isinstance(store, InstructionCache):
        store = store.store
    if not isinstance(store, BaseKVStore):
        return store
    return InstructionCache(store, {"text": text_key, "query": query_key or text_key})


class InstructionCache(BaseKVStore):
    """A key-value store seen through keys that begin with what the vectors depend on.

    Args:
        store: The store of the application; many embedding models and instructions can share it.
        prefixes: For each role (``"text"``, ``"query"``) what tells its vectors from all others.
    """

    def __init__(self, store: BaseKVStore, prefixes: Mapping[Role, str]) -> None:
        self.store = store
        self._prefixes = dict(prefixes)

    def _key(self, key: str) -> str:
        return f"{self._prefixes[_role.get()]}:{key}"

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Store a value."""
        self.store.put(self._key(key), val, collection)

    async def aput(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Store a value."""
        await self.store.aput(self._key(key), val, collection)

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Return a value, None if there is none."""
        return self.store.get(self._key(key), collection)

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Return a value, None if there is none."""
        return await self.store.aget(self._key(key), collection)

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """Return everything in the store, under the store's own keys."""
        return self.store.get_all(collection)

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """Return everything in the store, under the store's own keys."""
        return await self.store.aget_all(collection)

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Remove a value; tell whether there was one."""
        return self.store.delete(self._key(key), collection)

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Remove a value; tell whether there was one."""
        return await self.store.adelete(self._key(key), collection)
