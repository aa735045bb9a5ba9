"""One item's calls to an LLM: how often it was tried, when to try again, and by which door."""

from __future__ import annotations

import inspect
from typing import Any

from llama_index.core.callbacks.base import global_stack_trace_ids
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.llm import LLM
from tenacity import RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_exponential, wait_random

from llama_index_instruct.teacher.calls import BudgetSpentError, NotStartedError, is_configuration_failure


class Attempts:
    """Counts what was tried for one item, whatever becomes of it."""

    def __init__(self) -> None:
        self.calls = 0
        self.retries = 0

    def count_retry(self, _: RetryCallState) -> None:
        """Tell it of a retry; called by tenacity."""
        self.retries += 1


def retry_policy(retries: int, attempts: Attempts) -> dict[str, Any]:
    """Return tenacity's settings: what may heal is tried again, with growing pauses.

    Args:
        retries: Calls made again after a failure.
        attempts: Counts them.
    """
    return {
        "stop": stop_after_attempt(retries + 1),
        "wait": wait_exponential(multiplier=0.5, max=8.0) + wait_random(0.0, 0.25),
        "retry": retry_if_exception(may_heal),
        "before_sleep": attempts.count_retry,
        "reraise": True,
    }


def may_heal(error: BaseException) -> bool:
    """Return whether the same call may succeed later."""
    return (
        isinstance(error, Exception)
        and not isinstance(error, (MemoryError, BudgetSpentError, NotStartedError))
        and not is_configuration_failure(error)
    )


def speaks_async(llm: LLM) -> bool:
    """Return whether the LLM has an async call of its own; CustomLLM's default runs the sync one on the loop."""
    name = "achat" if llm.metadata.is_chat_model else "acomplete"
    # LlamaIndex wraps the methods of every subclass anew, inherited ones too: compare what is inside.
    return inspect.unwrap(getattr(type(llm), name)) is not inspect.unwrap(getattr(CustomLLM, name))


def start_own_trace(llm: LLM) -> None:
    """Let a call be a trace of its own for an LLM whose callback manager nobody listens to.

    Inside another manager's trace LlamaIndex never forgets the calls it has noted.
    """
    if not llm.callback_manager.handlers:
        global_stack_trace_ids.set([])
