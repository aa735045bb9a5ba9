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
_LINE_EDGE = " \t\r\n\"'`*_.,;:-\u2013\u2022\u201c\u201d\u2018\u2019[]()<>"
_REFUSAL = re.compile(
    r"\W*(?:unfortunately\W+)?(?:i['\u2019]?m (?:very |so )?sorry|sorry\b|as an ai\b"
    r"|i (?:can(?:no|['\u2019])t|am unable|am not able|won['\u2019]t|will not))",
    re.IGNORECASE,
)
_NUMBERING = re.compile(r"^(?:\d+|[a-z])[.)]\s*")
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


def parse_after(reply: str | None, marker: str) -> str | None:
    r"""Return the line after a marker such as "Summary:", the whole reply if it is one line without it, else None.

    A refusal without the marker is None. Quotation marks, list signs and emphasis around it are taken off.

    Example:
        >>> parse_after("Sure!\nSummary: **late parcel**", "Summary:"), parse_after("late parcel", "Summary:")
        ('late parcel', 'late parcel')
        >>> parse_after("I will not.\nAsk another.", "Summary:") is None
        True
    """
    text = _THOUGHT.sub(" ", reply or "").strip()
    word = re.escape(marker.rstrip(":"))
    # Models write "**Summary**: x" and "Summary : x" too; the last one counts, thoughts come before.
    found = list(re.finditer(rf"\b{word}[\s*_`]*:", text, re.IGNORECASE))
    if found:
        text = text[found[-1].end() :].strip(" \t\r\n*_`")
        text = text.splitlines()[0] if text else ""
    elif len(text.splitlines()) > 1 or _REFUSAL.match(text):
        return None
    return text.strip(_LINE_EDGE) or None


def fold(name: str) -> str:
    """Return a name without case, outer punctuation and repeated spaces, to compare names by.

    Example:
        >>> fold("  'Late  Delivery.' ")
        'late delivery'
    """
    return " ".join(name.casefold().split()).strip(_LINE_EDGE)


def match_category(answer: str | None, categories: Iterable[str]) -> str | None:
    """Return the category an answer names: exactly, or but for case, spaces and punctuation; else None.

    Example:
        >>> match_category('"late delivery".', ["Late delivery", "Damage"])
        'Late delivery'
        >>> match_category("both", ["Late delivery", "Damage"]) is None
        True
    """
    if answer is None:
        return None
    by_fold: dict[str, str] = {}
    for category in categories:
        if category == answer:
            return category
        by_fold.setdefault(fold(category), category)
    folded = fold(answer)
    if folded in by_fold:
        return by_fold[folded]
    # "2. late delivery" or "- late delivery"
    return by_fold.get(fold(_NUMBERING.sub("", folded)))
