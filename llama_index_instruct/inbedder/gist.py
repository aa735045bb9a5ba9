"""General questions, answered by the text itself.

A small model that learns to answer narrow questions forgets what a sentence encoder knows: which texts are about the same
thing. Asked what a text is about, it learns the frozen encoder's embedding of that text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llama_index_instruct.inbedder.facet_texts import Domain
from llama_index_instruct.inbedder.triples import QATriple

QUESTIONS = (
    "What is the text about?",
    "What does the text say?",
    "What is this about?",
    "What happens in the text?",
    "What is the message?",
    "Summarise the text",
    "Which subject does it concern?",
    "What is meant?",
    "gist",
)
GIST_GROUP = 32


def gist_triples(domains: Sequence[Domain], groups_per_domain: int, *, seed: int = 0) -> list[QATriple]:
    """Ask general questions about whole texts; the texts of a group are of one domain, so that they are hard to tell apart.

    Args:
        domains: As read. Those with a facet named "language" are left out: an English encoder tells their languages, not
            what they say.
        groups_per_domain: Groups of up to ``GIST_GROUP`` triples per domain.
        seed: Same seed, same triples.
    """
    rng = np.random.default_rng(seed)
    triples = []
    for number in range(groups_per_domain):
        for domain in domains:
            if any(facet.name == "language" for facet in domain.facets):
                continue
            group = f"{domain.name}, gist #{number}, seed {seed}"
            for i in rng.permutation(len(domain.texts))[:GIST_GROUP]:
                text = domain.texts[i][0]
                question = QUESTIONS[int(rng.integers(len(QUESTIONS)))]
                triples.append(QATriple(text, question, text, group, domain.name, is_gist=True))
    return triples
