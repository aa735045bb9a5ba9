"""AnswerEmbedding: any LLM answers the instruction about each text, any embedding model embeds the answers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms.llm import LLM
from pydantic import Field, PrivateAttr

from llama_index_instruct.embedders.cache import settings_digest
from llama_index_instruct.embedders.fields import check_instruction, checked_fields
from llama_index_instruct.embedders.guarded import GuardedEmbedding
from llama_index_instruct.errors import ConfigurationError, TeacherError
from llama_index_instruct.rows import unit_rows
from llama_index_instruct.teacher.answers import AnswerFile
from llama_index_instruct.teacher.asking import Asker, Question
from llama_index_instruct.teacher.calls import BudgetSpentError, NotStartedError, run_in_daemon_thread
from llama_index_instruct.teacher.parsing import parse_after
from llama_index_instruct.teacher.prompts import SHORT_ANSWER, quotable
from llama_index_instruct.teacher.usage import Budget, Usage

SAMPLING_TEMPERATURE = 0.8
"""For several samples (released code); one sample is drawn at temperature 0."""


class AnswerEmbedding(GuardedEmbedding):
    """Embeds the short answers of an LLM that was never trained for it (paper section 4.4, "re-encode").

    In the authors' runs ten sampled answers of an untuned chat model, embedded and averaged, came near their own model
    (52.9 against 58.8, one answer 41.8). Each text costs ``samples`` calls; answers are kept, so no text is paid for twice.
    Traces show the calls below a span ``Asker.answers`` with counts and tokens.

    Args:
        llm: Any LlamaIndex LLM.
        embed_model: Any embedding model; it sees answers only.
        instruction: The question asked about every text.
        samples: Answers drawn per text; their embeddings are averaged. More than one needs an LLM whose calls take a
            ``temperature``.
        budget: Stops asking when used up.

    Raises:
        ConfigurationError: If the instruction is empty or a number out of range.

    Attributes:
        usage: What all calls so far cost.
    """

    llm: LLM = Field(frozen=True, description="Answers the instruction.")
    embed_model: BaseEmbedding = Field(frozen=True, description="Embeds the answers.")
    instruction: str = Field(description="The question asked about every text.")
    samples: int = Field(frozen=True, default=1, ge=1, description="Answers drawn per text and averaged.")
    workers: int = Field(frozen=True, default=20, ge=1, description="Calls at a time.")
    retries: int = Field(frozen=True, default=4, ge=0, description="Calls made again after a failure that may heal.")
    patience: float = Field(frozen=True, default=120.0, ge=0, description="Seconds to wait for the end of an outage.")
    max_chars: int = Field(frozen=True, default=8000, ge=1, description="Longest text shown to the LLM, in characters.")
    max_answer_tokens: int = Field(frozen=True, default=24, ge=1, description="Longest answer, in tokens.")
    answers_path: str | None = Field(
        frozen=True, default=None, description="File in which answers are kept; None: in memory."
    )
    show_progress: bool = Field(frozen=True, default=False, description="Show a progress bar per batch of calls.")
    normalize: bool = Field(default=True, description="Return vectors of length one.")

    _asker: Asker = PrivateAttr()
    _usage: Usage = PrivateAttr(default_factory=Usage)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    def __init__(
        self,
        llm: LLM,
        embed_model: BaseEmbedding,
        instruction: str,
        samples: int = 1,
        *,
        budget: Budget | None = None,
        **fields: Any,
    ) -> None:
        for name, value, kind in (("llm", llm, LLM), ("embed_model", embed_model, BaseEmbedding)):
            if not isinstance(value, kind):
                raise ConfigurationError(
                    f"{name}: expected a LlamaIndex object, found {type(value).__name__}; give it again to from_dict(...)"
                )
        fields.setdefault("model_name", f"{llm.metadata.model_name}+{embed_model.model_name}")
        fields.setdefault("embed_batch_size", 256)
        fields |= {"llm": llm, "embed_model": embed_model, "instruction": instruction, "samples": samples}
        with checked_fields(type(self), fields):
            super().__init__(**fields)
        check_instruction(self.instruction)
        self._asker = Asker(
            llm,
            workers=self.workers,
            retries=self.retries,
            patience=self.patience,
            max_tokens=self.max_answer_tokens,
            temperature=SAMPLING_TEMPERATURE if samples > 1 else 0.0,
            budget=budget,
            answers=AnswerFile(Path(self.answers_path) if self.answers_path else None),
            show_progress=self.show_progress,
        )
        self._guard_cache()

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serialises it."""
        return "AnswerEmbedding"

    @property
    def usage(self) -> Usage:
        """Return what all calls so far cost."""
        return self._usage

    def to_payload(self) -> dict[str, Any]:
        """Return what tracing shows."""
        return {**super().to_payload(), "instruction": self.instruction, "samples": self.samples}

    def answer(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the answers to the instruction about each text, up to ``samples`` each, unreadable ones left out.

        Raises:
            TeacherError: If some text got no readable answer at all; the message says how many, and why the first.
        """
        instruction = quotable(self.instruction, self.max_chars)
        quoted = [quotable(text, self.max_chars) for text in texts]
        questions = [
            Question(SHORT_ANSWER, {"instruction": instruction, "text": text}, sample=sample)
            for text in quoted
            for sample in range(self.samples)
        ]
        replies = self._asker.ask(questions, label="answers")
        with self._lock:
            self._usage += replies.usage
        read = [parse_after(reply, "Answer") for reply in replies.texts]
        answers = [
            [answer for answer in read[at : at + self.samples] if answer] for at in range(0, len(read), self.samples)
        ]
        # A mean over fewer samples than asked for, because the money ran out, would stay in caches as if it were the real one.
        cut_short = {
            i // self.samples
            for i, error in enumerate(replies.errors)
            if isinstance(error, (BudgetSpentError, NotStartedError))
        }
        missing = [i for i, found in enumerate(answers) if not found or i in cut_short]
        if missing:
            errors = replies.errors[missing[0] * self.samples : (missing[0] + 1) * self.samples]
            first = next((error for error in errors if error is not None), None)
            why = f"{type(first).__name__}: {first}" if first else "the reply could not be read"
            raise TeacherError(
                f"{len(missing)} of {len(texts)} texts got no answer; the first: {why}; a higher max_answer_tokens=... gives "
                "the model more room, retries=... more tries"
            ) from first
        return answers

    def _cache_keys(self) -> tuple[str, str]:
        digest = self._digest()
        return digest, digest

    def _digest(self) -> str:
        asked = (
            self.model_name,
            self.instruction,
            SHORT_ANSWER.version,
            self.samples,
            self.max_chars,
            self.max_answer_tokens,
            self.normalize,
        )
        return settings_digest(asked)

    def _vectors(self, texts: Sequence[str]) -> list[list[float]]:
        answers = self.answer(texts)
        distinct = sorted({answer for found in answers for answer in found})
        rows = np.array(self.embed_model.get_text_embedding_batch(distinct), dtype=np.float32)
        row_of = dict(zip(distinct, rows, strict=True))
        means = np.stack([np.mean([row_of[answer] for answer in found], axis=0) for found in answers])
        vectors: list[list[float]] = (unit_rows(means) if self.normalize else means).tolist()
        return vectors

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._vectors([query])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self._aget_text_embeddings([query]))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._vectors([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._vectors(texts)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await run_in_daemon_thread(lambda _: self._vectors(texts))
