import numpy as np
import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding

from llama_index_instruct import ConfigurationError, nearest_examples

ANGLES = {"north": 90, "north by a hair": 91, "north-east": 45, "east": 0, "south": -90, "north?": 88}
POOL = [("south", "s"), ("east", "e"), ("north by a hair", "n2"), ("north", "n"), ("north-east", "ne")]


class Compass(BaseEmbedding):
    def _get_text_embedding(self, text):
        angle = np.radians(ANGLES[text])
        return [float(np.cos(angle)), float(np.sin(angle))]

    def _get_query_embedding(self, query):
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query):
        return self._get_text_embedding(query)


@pytest.fixture
def compass():
    return Compass(model_name="compass")


def test_the_nearest_come_first(compass):
    assert nearest_examples(POOL, ["east"], compass, count=2) == [("east", "e"), ("north-east", "ne")]


def test_near_copies_are_passed_over(compass):
    picked = nearest_examples(POOL, ["north?"], compass, count=3)
    assert picked == [("north", "n"), ("north-east", "ne"), ("east", "e")]


def test_several_queries_count_together(compass):
    assert nearest_examples(POOL, ["north?", "east"], compass, count=1) == [("north-east", "ne")]


def test_a_small_pool_gives_what_it_has(compass):
    assert nearest_examples([], ["east"], compass) == []
    assert nearest_examples(POOL[:1], ["east"], compass) == POOL[:1]


@pytest.mark.parametrize(("queries", "count", "message"), [([], 5, "queries"), (["east"], 0, "count")])
def test_nothing_to_go_by_is_refused(compass, queries, count, message):
    with pytest.raises(ConfigurationError, match=f"{message}: expected"):
        nearest_examples(POOL, queries, compass, count=count)
