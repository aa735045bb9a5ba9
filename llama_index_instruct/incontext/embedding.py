"""InContextEmbedding: a LlamaIndex embedding model that is shown the task and examples."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr

from llama_index_instruct.embedders.fields import check_instruction, checked_fields, checked_text, checked_texts
from llama_index_instruct.embedders.local import LocalModelEmbedding
from llama_index_instruct.embedders.positions import positions
from llama_index_instruct.errors import ConfigurationError, InstructWarning
from llama_index_instruct.incontext.prompts import InContextTokenizer, TaskHead
from llama_index_instruct.incontext.template import Example, find_template
from llama_index_instruct.models import resolve_model
from llama_index_instruct.rows import unit_rows
from llama_index_instruct.spans import span

if TYPE_CHECKING:
    from llama_index_instruct.incontext.encoder import LastTokenEncoder

# Task and examples count for queries only.
_NOT_IN_KEY = frozenset({"padding", "task", "examples"})


class InContextEmbedding(LocalModelEmbedding):
    """Embeds queries by what a decoder makes of examples, the task and the query; passages as they are (arXiv 2506.07438).

    The embedding is the last layer's state at the last token, of unit length. What all queries of a task begin with (task
    and examples) is computed once and reused.

    Args:
        model_name: Folder or Hub name of a decoder trained for it, such as ``annamodels/LGAI-Embedding-Preview`` or
            ``BAAI/bge-en-icl`` (with ``template="bge-en-icl"``); read their licences.
        task: What a query is to find, in a sentence: "Given a question, retrieve passages that answer it."
        examples: Pairs of a query and a passage that answers it, most telling first.

    Raises:
        ConfigurationError: If the task is empty, an example is no pair of texts, or a value is out of range.

    Example:
        >>> model = InContextEmbedding(  # doctest: +SKIP
        ...     "my-decoder", task="Find the product a complaint is about.", examples=[("it hums all night", "fridge")]
        ... )
    """

    task: str = Field(description="What a query is to find.")
    examples: list[tuple[str, str]] = Field(default_factory=list, description="Queries and passages that answer them.")
    template: Literal["lg-anna", "bge-en-icl", "plain", "bare"] = Field(
        default="lg-anna", frozen=True, description="How a query is written down."
    )
    query_tokens: int = Field(default=512, ge=1, frozen=True, description="Most tokens of a query's own text.")
    passage_tokens: int = Field(default=512, ge=1, frozen=True, description="Most tokens of a passage.")
    example_tokens: int = Field(
        default=1536, ge=8, frozen=True, description="Most tokens before the query's text; whole examples are left out."
    )
    padding: Literal["right", "left"] = Field(default="right", frozen=True, description="Where rows are filled up.")
    _encoder: LastTokenEncoder = PrivateAttr()
    _tokenizer: InContextTokenizer = PrivateAttr()
    _head: TaskHead = PrivateAttr()

    def __init__(
        self,
        model_name: str,
        task: str,
        examples: Sequence[Example] = (),
        *,
        embed_batch_size: int = 256,
        **fields: Any,
    ) -> None:
        fields |= {
            "model_name": model_name,
            "task": task,
            "examples": checked_examples(examples),
            "embed_batch_size": embed_batch_size,
        }
        with checked_fields(type(self), fields):
            super().__init__(**fields)
        self._load()
        self._head = self._new_head(self.task, self.examples)
        self._guard_cache()

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serialises it."""
        return "InContextEmbedding"

    @property
    def shown(self) -> tuple[Example, ...]:
        """Return the examples that fit ``example_tokens`` and are shown."""
        return self._head.examples

    def with_task(self, task: str, examples: Sequence[Example] = ()) -> InContextEmbedding:
        """Return a copy for another task; the weights are shared, not loaded again."""
        shown = checked_examples(examples)
        head = self._new_head(task, shown)
        other = self.model_copy(update={"task": task, "examples": shown})
        other._head = head
        other._guard_cache()
        return other

    def to_payload(self) -> dict[str, Any]:
        """Return what tracing shows."""
        return {**super().to_payload(), "task": self.task, "examples": len(self.shown)}

    def get_query_embeddings(self, queries: Sequence[str]) -> list[list[float]]:
        """Embed many queries at once, in batches; traces show one span ``InContextEmbedding.get_query_embeddings``."""
        with span("InContextEmbedding.get_query_embeddings", queries=len(queries)):
            return self._query_vectors(queries)

    def _query_vectors(self, queries: Sequence[str]) -> list[list[float]]:
        read = checked_texts(queries, "query", "queries")
        head = self._head
        return self._vectors(self._tokenizer.queries(read, head), head.shared)

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign a field; the prompt and the cache follow."""
        if name not in ("task", "examples"):
            super().__setattr__(name, value)
            return
        value = checked_examples(value) if name == "examples" else value
        head = self._new_head(*((value, self.examples) if name == "task" else (self.task, value)))
        self._head = head
        super().__setattr__(name, value)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._query_vectors([query])[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._vectors(self._tokenizer.passages(checked_texts(texts)))

    def _vectors(self, rows: Sequence[Sequence[int]], shared: Sequence[int] = ()) -> list[list[float]]:
        states = self._encoder.embed(rows, shared)
        vectors: list[list[float]] = (unit_rows(states) if self.normalize and len(states) else states).tolist()
        return vectors

    def _new_head(self, task: str, examples: Sequence[Example]) -> TaskHead:
        check_instruction(task, "task")
        head = self._tokenizer.head(task, examples)
        if len(head.examples) < len(examples):
            warnings.warn(
                f"{len(examples) - len(head.examples)} of {len(examples)} examples do not fit example_tokens="
                f"{self.example_tokens} and are left out",
                InstructWarning,
                stacklevel=3,
            )
        return head

    def _load(self) -> None:
        from llama_index_instruct.incontext.encoder import LastTokenEncoder
        from llama_index_instruct.incontext.loading import load_decoder

        source: dict[str, Any] = {
            "trust_remote_code": self.trust_remote_code,
            "revision": self.revision,
            "cache_dir": self.cache_folder,
        }
        body, tokenizer = load_decoder(resolve_model(self.model_name), self.device, self.dtype, **source)
        self._tokenizer = InContextTokenizer(
            tokenizer,
            find_template(self.template),
            window=positions(body.config),
            query_tokens=self.query_tokens,
            passage_tokens=self.passage_tokens,
            example_tokens=self.example_tokens,
            on_cut=_warn_of_cut,
        )
        self._encoder = LastTokenEncoder(
            body, int(tokenizer.pad_token_id or 0), batch_tokens=self.batch_tokens, pad_left=self.padding == "left"
        )

    def _cache_keys(self) -> tuple[str, str]:
        return self._key(_NOT_IN_KEY), self._key(_NOT_IN_KEY, asked=[self.task, self.shown])


def _warn_of_cut(lost: int, count: int) -> None:
    warnings.warn(
        f"{lost} of {count} texts lost their end: see query_tokens and passage_tokens", InstructWarning, stacklevel=5
    )


def checked_examples(examples: object) -> list[Example]:
    """Return examples as pairs of texts.

    Raises:
        ConfigurationError: If they are anything else.
    """
    if isinstance(examples, str) or not isinstance(examples, Sequence):
        raise ConfigurationError(f"examples: expected pairs of query and passage, found {type(examples).__name__}")
    for i, example in enumerate(examples):
        if isinstance(example, str) or not isinstance(example, Sequence) or len(example) != 2:
            raise ConfigurationError(f"examples: expected pairs of query and passage, found {example!r} at place {i}")
    return [
        (checked_text(query, f"examples: query {i}"), checked_text(passage, f"examples: passage {i}"))
        for i, (query, passage) in enumerate(examples)
    ]
