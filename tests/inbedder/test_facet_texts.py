import gzip
import json
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.inbedder.facet_texts import (
    LABELS_PER_GROUP,
    TEXTS_PER_GROUP,
    Domain,
    Facet,
    compose_triples,
    read_domains,
)

ROW = {
    "domain": "shop",
    "facets": [
        {
            "name": name,
            "questions": [f"Which {name}?", f"Tell the {name}."],
            "labels": {f"{name} {i}": [f"It says {name} {i} {way}." for way in ("so", "thus")] for i in range(7)},
        }
        for name in ("mood", "thing", "place")
    ],
    "texts": [
        {
            "text": f"whole {i}",
            "labels": {"mood": f"mood {i % 7}", "thing": f"thing {i % 5}", "place": f"place {i % 3}"},
        }
        for i in range(60)
    ],
}


def domain_of(row=ROW):
    facets = tuple(
        Facet(facet["name"], tuple(facet["questions"]), {x: tuple(s) for x, s in facet["labels"].items()})
        for facet in row["facets"]
    )
    return Domain(row["domain"], facets, tuple((text["text"], text["labels"]) for text in row["texts"]))


SHOP = domain_of()
WHOLE = dict(SHOP.texts)
NO_SENTENCES = replace(SHOP, facets=tuple(replace(f, sentences=dict.fromkeys(f.sentences, ())) for f in SHOP.facets))
BARE = replace(SHOP, texts=())
asked_of = {question: facet for facet in SHOP.facets for question in facet.questions}


def by_group(triples):
    groups = defaultdict(list)
    for triple in triples:
        groups[triple.group].append(triple)
    return groups


def written(text, facet):
    """The label of a facet that a text carries."""
    if text in WHOLE:
        return WHOLE[text].get(facet.name)
    labels = [label for label, sentences in facet.sentences.items() if any(s in text for s in sentences)]
    return labels[0] if labels else None


@pytest.fixture(params=[SHOP, NO_SENTENCES, BARE], ids=["both", "whole texts", "joined texts"])
def composed(request):
    return compose_triples([request.param], 30, seed=4)


# Composing


def test_the_same_seed_gives_the_same_triples():
    once = compose_triples([SHOP, replace(BARE, name="other")], 5, seed=1)
    assert once == compose_triples([SHOP, replace(BARE, name="other")], 5, seed=1)
    assert once != compose_triples([SHOP, replace(BARE, name="other")], 5, seed=2)
    assert {triple.source for triple in once} == {"shop", "other"}


def test_an_answer_is_the_label_the_text_carries_for_the_facet_asked(composed):
    assert len(composed) > 300
    for triple in composed:
        facet = asked_of[triple.question]
        assert triple.answer in facet.sentences and triple.answer == written(triple.paragraph, facet)


def test_a_group_asks_each_of_its_texts_the_same_two_questions(composed):
    groups = by_group(composed)
    assert len(groups) == 30
    for rows in groups.values():
        facets = {asked_of[row.question].name for row in rows}
        assert len(facets) == 2 and len(rows) <= 2 * TEXTS_PER_GROUP
        pairs = [
            (asked_of[a.question].name, asked_of[b.question].name) for a, b in zip(rows[::2], rows[1::2], strict=True)
        ]
        assert len(set(pairs)) == 1 and set(pairs[0]) == facets
        assert all(a.paragraph == b.paragraph for a, b in zip(rows[::2], rows[1::2], strict=True))
        answers = defaultdict(set)
        for row in rows:
            answers[asked_of[row.question].name].add(row.answer)
        assert all(len(labels) <= LABELS_PER_GROUP for labels in answers.values())


def test_texts_of_one_answer_differ_in_the_other(composed):
    other = defaultdict(set)
    for rows in by_group(composed).values():
        for a, b in zip(rows[::2], rows[1::2], strict=True):
            other[a.group, a.answer].add(b.answer)
    assert sum(len(answers) > 1 for answers in other.values()) > len(other) / 2


def test_a_whole_text_comes_once_in_a_group():
    for rows in by_group(compose_triples([NO_SENTENCES], 20)).values():
        assert max(Counter((row.paragraph, row.answer) for row in rows).values()) == 1


def test_every_facet_question_and_label_is_used(composed):
    assert {triple.question for triple in composed} == set(asked_of)
    assert len({triple.answer for triple in composed}) >= 15


def test_a_facet_the_text_has_no_label_for_is_never_asked():
    texts = tuple((text, {k: v for k, v in labels.items() if k != "place"}) for text, labels in SHOP.texts)
    rows = compose_triples([replace(NO_SENTENCES, texts=texts)], 40)
    assert rows and {asked_of[row.question].name for row in rows} == {"mood", "thing"}


def test_a_facet_without_sentences_is_never_asked_of_joined_texts():
    mute = tuple(replace(f, sentences=dict.fromkeys(f.sentences, ())) if f.name == "place" else f for f in SHOP.facets)
    rows = compose_triples([replace(BARE, facets=mute)], 40)
    assert rows and {asked_of[row.question].name for row in rows} == {"mood", "thing"}


def test_labels_without_sentences_leave_no_text_with_one_question_only():
    # One mood of seven has sentences: most groups choose moods that no joined text can carry.
    sparse = {label: s if label == "mood 0" else () for label, s in SHOP.facets[0].sentences.items()}
    rows = compose_triples([replace(BARE, facets=(replace(SHOP.facets[0], sentences=sparse), SHOP.facets[1]))], 40)
    for group in by_group(rows).values():
        asked = defaultdict(set)
        for row in group:
            asked[row.paragraph].add(asked_of[row.question].name)
        assert all(facets == {"mood", "thing"} for facets in asked.values())


def test_labels_a_facet_does_not_list_are_left_out():
    texts = tuple((text, {**labels, "mood": "unheard of"}) for text, labels in SHOP.texts)
    rows = compose_triples([replace(NO_SENTENCES, texts=texts)], 20)
    assert rows and "unheard of" not in {row.answer for row in rows}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 4))
def test_groups_are_counted_and_named(seed, groups):
    rows = compose_triples([SHOP, replace(SHOP, name="office")], groups, seed=seed)
    assert set(by_group(rows)) == {f"{name} #{i}, seed {seed}" for name in ("shop", "office") for i in range(groups)}


# Files


@pytest.mark.parametrize("name", ["domains.jsonl", "domains.jsonl.gz"])
def test_domains_are_read(tmp_path, name):
    payload = f"{json.dumps(ROW)}\n\n{json.dumps({**ROW, 'domain': 'office'})}\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(payload) if name.endswith("gz") else payload)
    assert read_domains(tmp_path / name) == [SHOP, replace(SHOP, name="office")]
    assert read_domains(str(tmp_path / name))[0].facets[0].questions == ("Which mood?", "Tell the mood.")


def changed(*path, to):
    row = json.loads(json.dumps(ROW))
    inner = row
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return row


FAULTS = {
    "cut short": '{"domain": "sh',
    "no object": [1],
    "null": None,
    "no texts": {name: value for name, value in ROW.items() if name != "texts"},
    "one facet": changed("facets", to=ROW["facets"][:1]),
    "no question": changed("facets", 1, "questions", to=[]),
    "a question that is a string": changed("facets", 1, "questions", to="Which thing?"),
    "a sentence that is a string": changed("facets", 0, "labels", "mood 0", to="I am glad."),
    "labels that are a list": changed("facets", 0, "labels", to=["mood 0"]),
    "a text without labels": changed("texts", 0, to={"text": "whole"}),
    "a text that is a string": changed("texts", 0, to="whole"),
    "labels of a text that are a string": changed("texts", 0, "labels", to="happy"),
    "labels of a text that are null": changed("texts", 0, "labels", to=None),
    "a label that is a number": changed("texts", 0, "labels", "mood", to=3),
    "a text that is null": changed("texts", 0, "text", to=None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_file_is_told_with_its_line(tmp_path, fault):
    line = FAULTS[fault]
    path = tmp_path / "domains.jsonl"
    path.write_text(f"{json.dumps(ROW)}\n\n{line if isinstance(line, str) else json.dumps(line)}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        read_domains(path)
    assert f"{path}, line 3:" in str(caught.value)
