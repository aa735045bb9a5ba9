"""InBedderEmbedding: a LlamaIndex embedding model whose vectors answer an instruction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, PrivateAttr

from llama_index_instruct.embedders.fields import check_instruction, checked_fields, checked_texts
from llama_index_instruct.embedders.local import LocalModelEmbedding
from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.inbedder.encoder import AnswerEncoder, EncoderSettings, load_encoder
from llama_index_instruct.inbedder.words import english_stopwords
from llama_index_instruct.models import INBEDDER_MINILM, resolve_model
from llama_index_instruct.rows import unit_rows
from llama_index_instruct.spans import span

PoolingName = Literal["first_gen", "avg_gen", "last_gen", "avg_prompt", "expected_answer"]

ABOUT = "What is the text about?"
"""Asked when no instruction is given."""

# Instructions and centers enter the key of the one instruction that is asked.
_NOT_IN_KEY = frozenset({"instruction", "query_instruction", "centers"})


class InBedderEmbedding(LocalModelEmbedding):
    """Embeds what the model would answer to an instruction about the text (InBedder, arXiv 2402.09642).

    Two texts are near when their answers are alike, whatever else they speak of. One forward pass per text: nothing is
    generated with the default poolings.

    Args:
        model_name: ``"inbedder-minilm"``, the small masked model that comes with this package; a folder; or a Hub name such
            as ``BrandonZYW/roberta-large-InBedder``, ``BrandonZYW/opt-1.3b-InBedder`` or ``BrandonZYW/llama-2-7b-InBedder``.
        instruction: The question asked about every text, such as "How does the writer feel?".

    Raises:
        ConfigurationError: If the instruction is empty, a setting does not fit the model, or the folder does not exist.

    Example:
        >>> feeling = InBedderEmbedding(instruction="How does the writer feel?")  # doctest: +SKIP
        >>> feeling.answer(["It works like a charm, thank you!"])  # doctest: +SKIP
        ['happy']
        >>> product = feeling.with_instruction("Which product is this about?")  # doctest: +SKIP
    """

    instruction: str = Field(default=ABOUT, description="The question asked about every text.")
    query_instruction: str | None = Field(
        default=None, description="The question asked about queries; the same as for texts if None."
    )
    pooling: PoolingName | None = Field(
        default=None,
        frozen=True,
        description="Which states are the embedding; None: what the model was made for, else 'first_gen' for causal and "
        "sequence-to-sequence models, 'avg_gen' for masked ones.",
    )
    layer: int = Field(default=-1, frozen=True, description="Hidden state to pool; 0 the word embeddings, -1 the last.")
    prompt_share: float | None = Field(
        default=None,
        ge=0,
        frozen=True,
        description="How much of the prompt's mean state is added to the answer's, both of length one: more of it, and texts "
        "that say the same come nearer, whatever they answer. None: what the model was made for, else 0.",
    )
    template: str | None = Field(
        default=None, frozen=True, description="'inbedder', 'chat', or a pattern with {input} and {instruction}."
    )
    masks: int | None = Field(default=None, ge=1, frozen=True, description="Mask tokens of a masked model; None: 3.")
    max_length: int | None = Field(
        default=None,
        ge=8,
        frozen=True,
        description="Longest prompt in tokens; None: 512, or less if the model reads less.",
    )
    max_new_tokens: int = Field(default=20, ge=1, frozen=True, description="Most answer tokens that decoding predicts.")
    filter_stopwords: bool = Field(
        default=False,
        frozen=True,
        description="Skip English stopwords in answers; for models not trained for short ones.",
    )
    extra_stopwords: list[str] = Field(
        default_factory=list, frozen=True, description="More words to skip, such as 'sure' and 'based'."
    )
    centers: dict[str, list[float]] = Field(
        default_factory=dict, description="Per instruction the mean vector that is subtracted; see centered_on()."
    )
    _encoder: AnswerEncoder = PrivateAttr()

    def __init__(
        self,
        model_name: str = INBEDDER_MINILM,
        instruction: str = ABOUT,
        *,
        embed_batch_size: int = 256,
        **fields: Any,
    ) -> None:
        fields |= {"model_name": model_name, "instruction": instruction, "embed_batch_size": embed_batch_size}
        with checked_fields(type(self), fields):
            super().__init__(**fields)
        check_instruction(self.instruction)
        check_instruction(self.query_instruction, "query_instruction")
        self._encoder = load_encoder(
            resolve_model(self.model_name),
            self._encoder_settings(),
            device=self.device,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
            revision=self.revision,
            cache_folder=self.cache_folder,
        )
        self._guard_cache()

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serialises it."""
        return "InBedderEmbedding"

    @property
    def encoder(self) -> AnswerEncoder:
        """Return the model behind the vectors, shared by the copies that ``with_instruction`` makes."""
        return self._encoder

    def with_instruction(self, instruction: str, *, query_instruction: str | None = None) -> InBedderEmbedding:
        """Return a copy that asks something else; the weights are shared, not loaded again."""
        check_instruction(instruction)
        check_instruction(query_instruction, "query_instruction")
        other = self.model_copy(update={"instruction": instruction, "query_instruction": query_instruction})
        other._guard_cache()
        return other

    def centered_on(self, texts: Sequence[str]) -> InBedderEmbedding:
        """Return a copy that subtracts from every vector the mean vector of these texts, weights shared.

        The mean is what all answers to one question have in common. It is kept in ``centers``, per instruction, and so saved
        with ``to_dict()``: single texts and batches agree. A few hundred texts of the collection are enough.

        Raises:
            ConfigurationError: If there are no texts.
        """
        if not texts:
            raise ConfigurationError("centered_on: expected at least one text, found none")
        read = checked_texts(texts)
        asked = {self.instruction, self._query_instruction}
        with span("InBedderEmbedding.centered_on", texts=len(read), instructions=len(asked)):
            means = {question: self._encoder.embed(read, question).mean(axis=0).tolist() for question in sorted(asked)}
        other = self.model_copy(update={"centers": {**self.centers, **means}})
        other._guard_cache()
        return other

    def answer(self, texts: Sequence[str]) -> list[str]:
        """Return what the model would say about each text: the words behind the vectors."""
        read = checked_texts(texts)
        with span("InBedderEmbedding.answer", texts=len(read)):
            return self._encoder.answer(read, self.instruction)

    def to_payload(self) -> dict[str, Any]:
        """Return what tracing shows."""
        return {**super().to_payload(), "instruction": self.instruction, "pooling": self._encoder.pooling}

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign a field; an empty question is refused, and the cache follows."""
        if name in ("instruction", "query_instruction"):
            check_instruction(value, name)
        super().__setattr__(name, value)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embed([query], self._query_instruction)[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embed([text], self.instruction)[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embed(texts, self.instruction)

    def _embed(self, texts: Sequence[str], instruction: str) -> list[list[float]]:
        rows = self._encoder.embed(checked_texts(texts), instruction)
        if instruction in self.centers:
            rows = rows - np.array(self.centers[instruction], dtype=np.float32)
        vectors: list[list[float]] = (unit_rows(rows) if self.normalize else rows).tolist()
        return vectors

    def _encoder_settings(self) -> EncoderSettings:
        dropped = [*(english_stopwords() if self.filter_stopwords else ()), *self.extra_stopwords]
        return EncoderSettings(
            pooling=self.pooling,
            layer=self.layer,
            prompt_share=self.prompt_share,
            template=self.template,
            masks=self.masks,
            max_length=self.max_length,
            max_new_tokens=self.max_new_tokens,
            batch_tokens=self.batch_tokens,
            dropped_words=tuple(dropped),
        )

    def _cache_keys(self) -> tuple[str, str]:
        return self._key_when_asked(self.instruction), self._key_when_asked(self._query_instruction)

    def _key_when_asked(self, instruction: str) -> str:
        return self._key(_NOT_IN_KEY, asked=instruction, center=self.centers.get(instruction))

    @property
    def _query_instruction(self) -> str:
        return self.query_instruction or self.instruction
