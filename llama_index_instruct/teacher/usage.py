"""What a run of teacher calls cost, and what it may cost."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, fields
from typing import Any

from llama_index_instruct.errors import ConfigurationError


@dataclass(frozen=True)
class Usage:
    """Cost of a run of teacher calls; add two with ``+``.

    Attributes:
        calls: Requests handed to the LLM or reranker, failed ones and retries included.
        prompt_tokens: As the provider reports them; 0 where it does not.
        completion_tokens: Likewise.
        unmetered: Calls whose provider reported no tokens.
        retries: Calls made again after a failure.
        failures: Items that ended without a readable answer.
        cached: Items answered from the cache.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unmetered: int = 0
    retries: int = 0
    failures: int = 0
    cached: int = 0

    @property
    def tokens(self) -> int:
        """Return prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def counts(self) -> dict[str, int]:
        """Return all of it by name, tokens included."""
        return {**asdict(self), "tokens": self.tokens}

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


def usage_of_response(response: Any) -> Usage:
    """Return the tokens of one LlamaIndex chat or completion response; its call is counted where it is made."""
    raw = getattr(response, "raw", None)
    reported = raw.get("usage") if isinstance(raw, dict) else getattr(raw, "usage", None)
    if reported is None:
        reported = getattr(response, "additional_kwargs", None) or {}
    prompt = _count(reported, "prompt_tokens", "input_tokens")
    completion = _count(reported, "completion_tokens", "output_tokens")
    if prompt is None and completion is None:
        return Usage(unmetered=1)
    return Usage(prompt_tokens=prompt or 0, completion_tokens=completion or 0)


def _count(reported: Any, *names: str) -> int | None:
    for name in names:
        value = reported.get(name) if isinstance(reported, dict) else getattr(reported, name, None)
        if isinstance(value, int):
            return value
    return None


@dataclass(frozen=True)
class Prices:
    """What an LLM's tokens cost, per million, in whatever money you count in.

    Attributes:
        prompt: Per million tokens read.
        completion: Per million tokens written.
    """

    prompt: float
    completion: float

    def cost(self, usage: Usage) -> float:
        """Return the money a usage costs."""
        return (self.prompt * usage.prompt_tokens + self.completion * usage.completion_tokens) / 1e6


class Budget:
    """A limit on calls, tokens and money that may be shared by several judges and threads.

    Tokens are known only after a call, so up to ``workers`` calls may overshoot a limit on tokens or money; calls never
    overshoot. Of providers that report no tokens, a judge counts none; the labelling of texts counts four characters as one.

    Args:
        max_calls: Largest number of calls, or None for no limit.
        max_tokens: No call starts once this many tokens were used, or None for no limit.
        max_cost: No call starts once this much money was spent, or None for no limit; needs ``prices``.
        prices: What tokens cost.

    Raises:
        ConfigurationError: If a limit is negative, or on money without prices.
    """

    def __init__(
        self,
        *,
        max_calls: int | None = None,
        max_tokens: int | None = None,
        max_cost: float | None = None,
        prices: Prices | None = None,
    ) -> None:
        for name, value in (("max_calls", max_calls), ("max_tokens", max_tokens), ("max_cost", max_cost)):
            if value is not None and not value >= 0:
                raise ConfigurationError(f"{name}: expected 0 or more, found {value}")
        if max_cost is not None and prices is None:
            raise ConfigurationError("max_cost: needs prices=Prices(prompt=..., completion=...) per million tokens")
        self.max_calls = max_calls
        self.max_tokens = max_tokens
        self.max_cost = max_cost
        self.prices = prices
        self._spent = Usage()
        self._reserved = 0
        self._lock = threading.Lock()

    @property
    def spent(self) -> Usage:
        """Return what was used so far."""
        with self._lock:
            return self._spent

    def reserve(self) -> bool:
        """Take leave for one call; False when the budget is used up."""
        with self._lock:
            if self.max_calls is not None and self._reserved >= self.max_calls:
                return False
            if self.max_tokens is not None and self._spent.tokens >= self.max_tokens:
                return False
            if self.max_cost is not None and self.prices is not None and self.prices.cost(self._spent) >= self.max_cost:
                return False
            self._reserved += 1
            return True

    def charge(self, usage: Usage) -> None:
        """Record what a call used."""
        with self._lock:
            self._spent = self._spent + usage

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
