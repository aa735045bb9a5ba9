"""Embedding models whose vectors depend on more than the text: their cache is keyed by all of it."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import PrivateAttr

from llama_index_instruct.embedders.cache import guarded


class GuardedEmbedding(BaseEmbedding):
    """A LlamaIndex embedding model that sees its ``embeddings_cache`` through keys of its own.

    A subclass calls ``_guard_cache`` when it is complete; from then on the keys follow every assignment.
    """

    _complete: bool = PrivateAttr(default=False)

    def _cache_keys(self) -> tuple[str, str]:
        """Return the keys of everything that the vectors of texts, and of queries, depend on."""
        # Not abstract: LlamaIndex opens a span around every abstract method of an embedding model.
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign a field; the cache stays keyed by what the vectors depend on."""
        super().__setattr__(name, value)
        # LlamaIndex assigns fields while it validates them, before there is anything to guard.
        if name in type(self).model_fields and getattr(self, "_complete", False):
            self._guard_cache()

    def _guard_cache(self) -> None:
        self._complete = True
        self.__dict__["embeddings_cache"] = guarded(self.embeddings_cache, *self._cache_keys())
