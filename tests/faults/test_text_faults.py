"""F31 to F33 at the doors: queries that say nothing, are endless, are no text, or hold odd characters."""

from __future__ import annotations

import pytest
from doors import DOORS, QUERY, WAYS, ask, door_of, plain, refining
from fakes import ScriptedLLM, WordEmbedding
from gstransform.shop import recorded

from llama_index_instruct import ConfigurationError

ODD = {
    "control": "\x00\x01\x02",
    "right to left": "مرحبا \u202e order e\u0301\ufeff",
    "emoji": "🙂\U0010ffff",
    "half a pair": "half \ud83d of a pair",
}


class AnyText(WordEmbedding):
    """Has a vector for every text, as real models do."""

    def _vector(self, text):
        return super()._vector(f"order refund {text}")


@pytest.mark.parametrize("query", ["", "  \n\t", "\u2003", "\x00\x01\x1f"], ids=repr)
@pytest.mark.parametrize("name", DOORS)
async def test_f31_a_query_without_words(shop, mood, server, name, query):
    hits = plain(shop).retrieve(QUERY)
    door = door_of(name, shop, mood, embed_model=AnyText())
    server.forget()
    for way in WAYS:
        with pytest.raises(ConfigurationError, match="query: expected some text"):
            await ask(door, way, query=query, hits=hits)
    assert not server.operations


@pytest.mark.parametrize("way", WAYS)
async def test_f32_what_the_teacher_reads_is_bounded(shop, way):
    llm = ScriptedLLM(rule=lambda passage: 0.9 if "furious" in passage else 0.1)
    trace = await ask(refining(shop, llm=llm), way, query=f"{QUERY} {'x' * 1_000_000}")
    assert trace.changed and max(map(len, llm.prompts)) < 20_000
    assert all(prompt.endswith("Answer yes or no, nothing else.\nAnswer:") for prompt in llm.prompts)


@pytest.mark.parametrize("wrong", [None, b"bytes", 7], ids=repr)
@pytest.mark.parametrize("way", WAYS)
async def test_f33_a_query_that_is_no_text(shop, wrong, way):
    with pytest.raises((TypeError, ConfigurationError)):
        await ask(refining(shop), way, query=wrong)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("way", WAYS)
async def test_f33_odd_characters_in_a_query(shop, teacher, odd, way):
    with recorded() as said:
        trace = await ask(refining(shop, llm=teacher), way, query=f"{QUERY} {ODD[odd]}")
    assert trace.changed and trace.trouble is None and not said
