"""``fit_gstransform(labels=MODEL)``: the clusters of an embedding model that follows instructions are the labels."""

import re

import numpy as np
import pytest
from fakes import WordEmbedding
from inbedder import tiny
from llama_index.core.schema import MetadataMode
from messages import make_nodes
from threadpoolctl import threadpool_limits

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.gstransform.pipeline import fit_gstransform
from llama_index_instruct.gstransform.sources import ClusterLabels, GivenLabels, MetadataLabels
from llama_index_instruct.inbedder.embedding import InBedderEmbedding

MOOD, THING = "How does the writer feel?", "Which thing is it about?"
ANSWERS = {
    MOOD: ("angry", "happy", "calm"),
    THING: ("printer", "router", "laptop", "phone", "watch"),
}
ASKED: list[tuple[str, str]] = []


class AskingWords(WordEmbedding):
    """Embeds the words of a text that answer the instruction."""

    model_name: str = "asking words"
    instruction: str = ""

    def with_instruction(self, instruction):
        return self.model_copy(update={"instruction": instruction})

    def _get_text_embedding(self, text):
        ASKED.append((self.instruction, text))
        return self._vector(" ".join(word for word in re.findall(r"\w+", text) if word in ANSWERS[self.instruction]))


@pytest.fixture(autouse=True)
def asked():
    ASKED.clear()
    with threadpool_limits(1):
        yield ASKED


@pytest.fixture(scope="module")
def carrying():
    """The shop's nodes with their vectors."""
    nodes = make_nodes()
    for node in nodes:
        node.embedding = WordEmbedding().get_text_embedding(node.text)
    return nodes


def fit(source, labels, instruction=MOOD, **options):
    return fit_gstransform(
        source, **{"instruction": instruction, "labels": labels, "embed_model": WordEmbedding(), **options}
    )


def precision(vectors, nodes, facet):
    """Share of a text's ten nearest that have its label."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.array([node.metadata[facet] for node in nodes])
    near = np.argsort(-(unit @ unit.T), axis=1, kind="stable")[:, 1:11]
    return float((labels[near] == labels[:, None]).mean())


def assert_same(one, two):
    for (weight, bias), (other_weight, other_bias) in zip(one.layers, two.layers, strict=True):
        np.testing.assert_array_equal(weight, other_weight)
        np.testing.assert_array_equal(bias, other_bias)
    assert one.info == two.info


@pytest.mark.parametrize(("facet", "question"), [("mood", MOOD), ("thing", THING)])
def test_the_stored_vectors_learn_what_the_model_answers(carrying, facet, question):
    count = len(ANSWERS[question])
    transform = fit(carrying, AskingWords(), question, clusters=count)
    plain = np.array([node.embedding for node in carrying])
    other = "thing" if facet == "mood" else "mood"
    taught = transform.transform(plain)
    assert precision(taught, carrying, facet) > 0.98 >= precision(plain, carrying, facet)
    assert precision(taught, carrying, other) < precision(plain, carrying, other)
    assert transform.info.labels == {f"cluster {n}": 90 // count for n in range(count)}
    assert transform.info.instruction == question and transform.info.embed_model == "words"
    labelling = transform.info.labelling
    assert labelling["source"] == "clusters" and labelling["texts"] == labelling["labelled"] == 90
    assert labelling["usage"]["calls"] == 0 and "90 of 90" in labelling["summary"]


def test_every_text_is_asked_the_instruction_once(carrying, asked):
    model = AskingWords()
    fit(carrying, model, clusters=3)
    assert sorted(asked) == sorted((MOOD, node.text) for node in carrying)
    assert model.instruction == "" and model.calls == 0


def test_an_index_and_its_nodes_give_the_same(index):
    one = fit(index, AskingWords(), clusters=3)
    assert_same(one, fit(make_nodes(), AskingWords(), clusters=3, vector_store=index.vector_store))
    assert_same(one, fit(index, AskingWords(), clusters=3))


def test_it_is_cluster_labels_under_the_instruction(carrying):
    by_hand = ClusterLabels(AskingWords().with_instruction(MOOD), 7)
    assert_same(fit(carrying, AskingWords(), clusters=7), fit(carrying, by_hand))


@pytest.mark.parametrize(("clusters", "found"), [(2, 2), (3, 3), (7, 7), (50, 45), (500, 45)])
def test_clusters_are_at_most_half_the_texts(carrying, clusters, found):
    class Everything(AskingWords):
        def _get_text_embedding(self, text):
            return self._vector(text)

    assert len(fit(carrying, Everything(), clusters=clusters).info.labels) == found


def test_fifty_clusters_are_the_default(carrying):
    class Everything(AskingWords):
        def _get_text_embedding(self, text):
            return self._vector(text)

    many = [
        node.model_copy(update={"id_": f"{node.node_id}{n}", "text": f"{node.text} copy{n}"})
        for node in carrying
        for n in (0, 1)
    ]
    for node in many:
        node.embedding = WordEmbedding().get_text_embedding(node.text)
    assert len(fit(many, Everything()).info.labels) == 50


def test_only_the_sample_is_asked(carrying, asked):
    transform = fit(carrying, AskingWords(), clusters=3, sample=30)
    assert len(asked) == 30 == sum(transform.info.labels.values())


@pytest.mark.parametrize("mode", [MetadataMode.ALL, MetadataMode.NONE, MetadataMode.EMBED])
def test_the_model_reads_the_metadata_it_should(carrying, asked, mode):
    fit(carrying, AskingWords(), clusters=3, metadata_mode=mode)
    assert {text for _, text in asked} == {node.get_content(mode) for node in carrying}
    assert all(("mood: " in text) == (mode == MetadataMode.ALL) for _, text in asked)


def test_a_model_without_instructions_is_refused_and_told_what_to_give(carrying):
    model = WordEmbedding()
    with pytest.raises(ConfigurationError, match=r"found WordEmbedding.*ClusterLabels\(embed_model\)"):
        fit(carrying, model)
    assert model.calls == 0
    assert len(fit(carrying, ClusterLabels(model, 3)).info.labels) == 3  # as the message says


def test_an_llm_beside_it_is_refused(carrying):
    with pytest.raises(ConfigurationError, match="not both"):
        fit(carrying, AskingWords(), llm=object())


def test_other_labels_are_taken_as_before(carrying):
    moods = {node.node_id: node.metadata["mood"] for node in carrying}
    transforms = [fit(carrying, labels) for labels in (moods, GivenLabels(moods), MetadataLabels("mood"))]
    assert [transform.info.labelling["source"] for transform in transforms] == ["given", "given", "metadata"]
    assert all(transform.info.labels == dict.fromkeys(ANSWERS[MOOD], 30) for transform in transforms)


# With a real model


@pytest.fixture(scope="module")
def inbedder(tmp_path_factory):
    folder = tiny.save("bert", tmp_path_factory.mktemp("tiny") / "bert")
    return InBedderEmbedding(str(folder), "What is it?", dtype="float32", device="cpu")


def test_an_inbedder_labels_under_the_instruction(carrying, inbedder):
    one, two = (fit(carrying, inbedder, question, clusters=4) for question in (tiny.FEELING, tiny.TOPIC))
    assert inbedder.instruction == "What is it?"
    for found, question in ((one, tiny.FEELING), (two, tiny.TOPIC)):
        assert_same(found, fit(carrying, ClusterLabels(inbedder.with_instruction(question), 4), question))
    # The map is fitted to the clusters; that the vectors they come from differ is what the questions are for.
    texts = [node.text for node in carrying]
    asked, other = (
        np.array(inbedder.with_instruction(question).get_text_embedding_batch(texts))
        for question in (tiny.FEELING, tiny.TOPIC)
    )
    assert not np.allclose(asked, other, atol=1e-3)
    assert len(one.info.labels) == 4 and sum(one.info.labels.values()) == 90


@pytest.mark.parametrize("instruction", ["", "  \n"])
def test_an_inbedder_needs_a_question(carrying, inbedder, instruction):
    with pytest.raises(ConfigurationError, match="instruction: expected a question"):
        fit(carrying, inbedder, instruction)
