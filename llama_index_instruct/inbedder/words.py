"""Which tokens of a vocabulary are stopwords, to be skipped in the answers of models not trained for short ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def english_stopwords() -> list[str]:
    """Return NLTK's English stopwords, which llama-index-core carries with it."""
    from llama_index.core.utils import globals_helper

    return list(globals_helper.stopwords)


def stopword_ids(tokenizer: PreTrainedTokenizerFast, stopwords: Iterable[str]) -> frozenset[int]:
    """Return every token that alone spells one of the words, with or without the space before it.

    Words of several tokens are left out: their pieces also begin other words. Punctuation counts as a stopword.
    """
    wanted = {word.lower() for word in stopwords}
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return frozenset(
        token for token, text in enumerate(texts) if text.strip().lower() in wanted or _is_punctuation(text)
    )


def _is_punctuation(text: str) -> bool:
    # The replacement character stands for part of a letter that several byte tokens spell.
    return "\ufffd" not in text and not any(character.isalnum() for character in text)
