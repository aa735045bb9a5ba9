from dataclasses import replace

from inbedder.test_facet_texts import SHOP, WHOLE

from llama_index_instruct.inbedder.gist import GIST_GROUP, QUESTIONS, gist_triples


def test_general_questions_are_answered_by_the_text_itself():
    triples = gist_triples([SHOP], 3)
    assert len(triples) == 3 * GIST_GROUP
    for triple in triples:
        assert triple.is_gist and triple.paragraph in WHOLE and triple.question in QUESTIONS and triple.source == "shop"


def test_a_group_holds_no_text_twice():
    triples = gist_triples([SHOP], 3)
    groups = {triple.group for triple in triples}
    assert len(groups) == 3
    for group in groups:
        texts = [triple.paragraph for triple in triples if triple.group == group]
        assert len(texts) == len(set(texts)) == GIST_GROUP


def test_the_seed_decides():
    assert gist_triples([SHOP], 2, seed=1) == gist_triples([SHOP], 2, seed=1) != gist_triples([SHOP], 2, seed=2)


def test_domains_in_several_languages_are_left_out():
    facets = (replace(SHOP.facets[0], name="language"), *SHOP.facets[1:])
    assert gist_triples([replace(SHOP, facets=facets)], 2) == []
