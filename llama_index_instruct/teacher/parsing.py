"""Reply -> value. Pure functions that never raise: what cannot be read is ``None``, never a guess."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")
_VERDICT = re.compile(r"(?:answer|verdict|judge?ment)\W*(?:is)?\W*(yes|no)\W*\Z", re.IGNORECASE)
# SentencePiece and byte-level BPE write a leading space as these.
_TOKEN_EDGE = " \t\n\r▁Ġ\"'`*.,:;!()[]"
# Below this mass of yes and no together the model meant to say something else, such as a refusal.
MIN_MASS = 0.1


def parse_yes_no(reply: str | None) -> bool | None:
    """Return the yes or no of a reply when it is unambiguous, else None.

    The first word decides, unless the other word stands somewhere too; a final "answer: yes" counts as well. Thoughts in
    ``<think>`` tags are left out.

    Example:
        >>> [parse_yes_no(r) for r in ("Yes.", " NO!", "The answer is: yes", "yes and no", "ja", "", None)]
        [True, False, True, None, None, None, None]
    """
    if not reply:
        return None
    text = _THOUGHT.sub(" ", reply)
    words = [word.lower() for word in _WORD.findall(text)]
    said = {"yes", "no"} & set(words)
    if len(said) != 1:
        return None
    if words[0] in said:
        return "yes" in said
    verdict = _VERDICT.search(text)
    return str(verdict.group(1)).lower() == "yes" if verdict else None


def yes_probability(alternatives: Iterable[tuple[str, float]]) -> float | None:
    """Return P(yes) / (P(yes) + P(no)) from the alternatives of one token.

    Spellings of a word are pooled. A word that is missing gets its upper bound: it cannot be likelier than the least likely
    alternative returned, nor than what all of them leave over.

    Args:
        alternatives: Pairs of token and natural log-probability.

    Returns:
        A value in [0, 1], or None if neither word is there or both together are improbable.

    Example:
        >>> round(yes_probability([("Yes", math.log(0.6)), (" yes", math.log(0.15)), ("No", math.log(0.25))]), 6)
        0.75
    """
    mass = {"yes": 0.0, "no": 0.0}
    least, total = 1.0, 0.0
    for token, logprob in alternatives:
        if math.isnan(logprob):
            continue
        probability = math.exp(min(logprob, 0.0))
        least, total = min(least, probability), total + probability
        word = token.strip(_TOKEN_EDGE).lower()
        if word in mass:
            mass[word] += probability
    if mass["yes"] + mass["no"] < MIN_MASS:
        return None
    for word, probability in mass.items():
        if probability == 0.0:
            mass[word] = max(0.0, min(least, 1.0 - total))
    return mass["yes"] / (mass["yes"] + mass["no"])
