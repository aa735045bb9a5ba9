"""What embedding models with weights on this machine share: the fields that load them, threads, pickling, keys."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from llama_index_instruct.embedders.cache import NOT_IN_KEYS, as_query, settings_digest
from llama_index_instruct.embedders.guarded import GuardedEmbedding
from llama_index_instruct.embedders.threads import in_thread
from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.spans import within_the_span_of_its_base


class LocalModelEmbedding(GuardedEmbedding):
    """A LlamaIndex embedding model that runs a Hugging Face model; subclasses embed, and name what their vectors depend on."""

    normalize: bool = Field(default=True, description="Return vectors of length one.")
    device: str | None = Field(default=None, frozen=True, description="Such as 'cuda:0'; None: an accelerator if any.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        frozen=True,
        description="'auto': bfloat16 where the hardware multiplies it natively, else float32.",
    )
    batch_tokens: int | None = Field(
        default=None, ge=1, frozen=True, description="Tokens per forward pass, padding included; None: by the device."
    )
    trust_remote_code: bool = Field(default=False, frozen=True, description="Run code that comes with a Hub model.")
    revision: str | None = Field(default=None, frozen=True, description="Branch, tag or commit of a Hub model.")
    cache_folder: str | None = Field(default=None, frozen=True, description="Where Hub models are kept.")

    @within_the_span_of_its_base
    def get_query_embedding(self, query: str) -> list[float]:
        """Embed a query; see the base class. Overridden only to keep queries and texts apart in ``embeddings_cache``."""
        with as_query():
            return super().get_query_embedding(query)

    @within_the_span_of_its_base
    async def aget_query_embedding(self, query: str) -> list[float]:
        """Embed a query; see the base class."""
        with as_query():
            return await super().aget_query_embedding(query)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the settings only: the weights are loaded again, LlamaIndex's own way would log that it drops them."""
        return {**BaseModel.__getstate__(self), "__pydantic_private__": None}

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign a field; another model is refused, as the weights are loaded."""
        if name == "model_name":
            raise ConfigurationError(f"model_name: the weights are loaded; make another {type(self).__name__} instead")
        super().__setattr__(name, value)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await in_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await in_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await in_thread(self._get_text_embeddings, texts)

    def _key(self, without: frozenset[str], **more: Any) -> str:
        """Return a key for all fields but these, and what else the vectors depend on."""
        fields = {name: value for name, value in self.__dict__.items() if name not in NOT_IN_KEYS | without}
        return settings_digest(fields | more)
