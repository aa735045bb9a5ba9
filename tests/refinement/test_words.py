import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_instruct.refinement.words import READ_CHARS, READ_TEXTS, STEM, read_words

TEXTS = [
    "A refund was promised, and the refund never came.",
    "They refunded me at once; the Printer still jams.",
    "printers jam, jam and jam",
    "Nothing of the kind.",
    "",
]


def literal_cosines(query, texts):
    """tf-idf by loops: 1 + ln(tf), times ln((1 + n) / (1 + df)) + 1, of stems that two texts share."""
    counts = [Counter(word[:STEM] for word in re.findall(r"\w+", text.lower())) for text in [*texts, query]]
    documents = Counter(stem for found in counts[:-1] for stem in found)
    idf = {stem: math.log((1 + len(texts)) / (1 + df)) + 1 for stem, df in documents.items() if df > 1}
    weights = [{stem: (1 + math.log(tf)) * idf[stem] for stem, tf in c.items() if stem in idf} for c in counts]
    lengths = [math.sqrt(sum(value**2 for value in w.values())) or 1.0 for w in weights]

    def cosine(i, j):
        return sum(value * weights[j].get(stem, 0.0) for stem, value in weights[i].items()) / lengths[i] / lengths[j]

    everything = range(len(counts))
    return np.array([[cosine(i, j) for j in everything] for i in everything])


def test_inner_products_are_tf_idf_cosines():
    query = "Is the refund for a jammed printer promised?"
    rows = read_words(query, TEXTS)
    expected = literal_cosines(query, TEXTS)
    # A text without a shared word is like itself and no other.
    alone = np.diag([0.0, 0.0, 0.0, 0.0, 1.0])
    np.testing.assert_allclose(rows.texts @ rows.texts.T, expected[:-1, :-1] + alone, atol=1e-5)
    np.testing.assert_allclose(rows.texts @ rows.query, expected[:-1, -1], atol=1e-5)
    assert expected[0, 1] > 0.1 and expected[1, 2] > 0.3
    assert rows.texts.shape == (5, 5) and np.linalg.norm(rows.query) <= 1.0


@pytest.mark.parametrize(
    "texts", [[], ["one"], ["", ""], ["one two", "three four"], ["same same same"], ["-- !", "?? --"]]
)
def test_where_no_two_texts_share_a_word_there_is_nothing_to_read(texts):
    assert read_words("one two", texts) is None


def test_a_query_of_other_words_is_at_the_origin():
    np.testing.assert_allclose(read_words("zebra", TEXTS).query, 0.0)


def test_more_texts_than_can_be_weighed_are_not_read():
    assert read_words("one", ["one word"] * READ_TEXTS) is not None
    assert read_words("one", ["one word"] * (READ_TEXTS + 1)) is None


def test_accents_are_one_letter_however_they_are_written():
    rows = read_words("", ["caf\u00e9", "cafe\u0301", "cafeteria", "cafeterias"])
    np.testing.assert_allclose((rows.texts @ rows.texts.T)[0], [1.0, 1.0, 0.0, 0.0], atol=1e-5)


def test_only_the_beginning_of_a_long_text_is_read():
    filler = "x " * (READ_CHARS // 2)
    rows = read_words("refund", ["refund now", "a refund", f"{filler} refund"])
    cosines = rows.texts @ rows.query
    assert cosines[:2].min() > 0.5 and abs(cosines[2]) < 1e-6


@given(st.text(max_size=40), st.lists(st.text(max_size=60), max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_text_can_be_read(query, texts):
    rows = read_words(query, texts)
    if rows is not None:
        assert np.isfinite(rows.texts).all() and np.isfinite(rows.query).all()
        assert np.linalg.norm(rows.texts, axis=1).max() <= 1.0 + 1e-5
        np.testing.assert_array_equal(read_words(query, texts).texts, rows.texts)
