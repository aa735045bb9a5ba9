"""One LlamaIndex chat or completion response -> what a yes-or-no judgement needs of it."""

from __future__ import annotations

from typing import Any

from llama_index_instruct.teacher.parsing import parse_yes_no, yes_probability

# Some models open with a quotation mark or a space before the word: the paper looks at two tokens as well.
POSITIONS = 2
# What is said of a reply that holds no clear yes or no.
UNREADABLE = "unreadable"


def relevance_of(response: Any) -> tuple[float | None, str]:
    """Return the relevance a response expresses, and where it was read.

    Args:
        response: LlamaIndex ``ChatResponse`` or ``CompletionResponse``.

    Returns:
        A value in [0, 1] with ``"logprobs"`` or ``"text"``; None with ``"unreadable"``.
    """
    for alternatives in token_alternatives(response)[:POSITIONS]:
        probability = yes_probability(alternatives)
        if probability is not None:
            return probability, "logprobs"
    verdict = parse_yes_no(_text(response))
    if verdict is None:
        return None, UNREADABLE
    return float(verdict), "text"


def token_alternatives(response: Any) -> list[list[tuple[str, float]]]:
    """Return, per generated token, the alternatives with their log-probabilities; empty where there are none.

    LlamaIndex keeps them on ``response.logprobs`` along its native paths only; elsewhere they are left in ``response.raw``.
    """
    if getattr(response, "logprobs", None):
        return [[(lp.token, lp.logprob) for lp in position] for position in response.logprobs]
    choices = _field(getattr(response, "raw", None), "choices") or []
    logprobs = _field(choices[0], "logprobs") if choices else None
    chat_style = _field(logprobs, "content")
    if chat_style:
        return [
            [(_field(lp, "token"), _field(lp, "logprob")) for lp in _field(position, "top_logprobs") or []]
            for position in chat_style
        ]
    completion_style = _field(logprobs, "top_logprobs") or []
    return [list(position.items()) for position in completion_style if isinstance(position, dict)]


def _field(container: Any, name: str) -> Any:
    return container.get(name) if isinstance(container, dict) else getattr(container, name, None)


def _text(response: Any) -> str | None:
    message = getattr(response, "message", None)
    return message.content if message is not None else getattr(response, "text", None)
