"""The shop's transforms, and what the tests of both doors compare by hand."""

from __future__ import annotations

import copy
import functools
import hashlib
import re
import warnings
from contextlib import contextmanager

import numpy as np
from fakes import WordEmbedding
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from messages import index_over, make_nodes
from pydantic import PrivateAttr
from qdrant_client import QdrantClient, models

from llama_index_instruct import InstructWarning
from llama_index_instruct.gstransform.transform import GSTransform

QUERY = "order refund printer furious"


class OtherWords(WordEmbedding):
    """Another model of the same size, or of another one."""

    model_name: str = "other words"
    size: int = 64

    def _vector(self, text):
        self.calls += 1
        total = np.zeros(self.size)
        for word in re.findall(r"\w+", text.lower()):
            seed = int.from_bytes(hashlib.sha256(b"other" + word.encode()).digest()[:8], "big")
            total += np.random.default_rng(seed).normal(size=self.size)
        return (total / np.linalg.norm(total)).tolist()


class NoEmbedding(WordEmbedding):
    """Must not be asked."""

    model_name: str = "never asked"

    def _vector(self, text):
        raise AssertionError("embedded")


@functools.cache
def _shop():
    client = QdrantClient(":memory:")
    index_over(QdrantVectorStore(collection_name="shop", client=client))
    shop = copy.deepcopy(client._client.collections["shop"])
    client.close()
    return shop


def opened(local, **clients):
    """The index of the shared fixtures, its collection copied into an in-process Qdrant instead of built anew."""
    local._client.collections["shop"] = copy.deepcopy(_shop())
    store = QdrantVectorStore(collection_name="shop", **(clients or {"client": local}))
    return VectorStoreIndex.from_vector_store(store, embed_model=WordEmbedding())


def vectors_in(client, name="shop", vector_name=""):
    """Id -> vector as stored."""
    points = client.scroll(name, limit=1000, with_payload=False, with_vectors=True)[0]
    return {p.id: np.array(p.vector[vector_name] if vector_name else p.vector, dtype=np.float64) for p in points}


def fitted(client, facet="mood", name="shop", vector_name="", **settings):
    stored = vectors_in(client, name, vector_name)
    labels = {node.node_id: node.metadata[facet] for node in make_nodes()}
    instruction = f"What is the {facet}?"
    return GSTransform.from_labels(
        np.array(list(stored.values())), [labels[key] for key in stored], **{"instruction": instruction, **settings}
    )


def by_hand(transform, query, rows):
    """Cosines of the transformed vectors, in float64."""
    ((weight, bias),) = transform.layers

    def mapped(vectors):
        vectors = np.asarray(vectors, dtype=np.float64)
        if transform.info.normalized:
            vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
        z = transform.info.scale * vectors @ weight.T.astype(np.float64) + bias
        return z / np.linalg.norm(z, axis=-1, keepdims=True)

    return mapped(rows) @ mapped(query)


def ranking_by_hand(transform, stored, keys, query=QUERY):
    """Ids and cosines, best first."""
    scores = by_hand(transform, WordEmbedding().get_query_embedding(query), [stored[key] for key in keys])
    order = np.argsort(-scores, kind="stable")
    return [keys[i] for i in order], scores[order]


def plain_of(index, query=QUERY, **kwargs):
    return index.as_retriever(**{"similarity_top_k": 40, **kwargs}).retrieve(query)


def ids(hits):
    return [hit.node.node_id for hit in hits]


def scores_of(hits):
    return [hit.score for hit in hits]


def same(left, right):
    assert ids(left) == ids(right)
    assert [score is None for score in scores_of(left)] == [score is None for score in scores_of(right)]
    pairs = [(a, b) for a, b in zip(scores_of(left), scores_of(right), strict=True) if a is not None]
    np.testing.assert_allclose([a for a, _ in pairs], [b for _, b in pairs], atol=1e-6)


def angry(hits):
    return sum("furious" in hit.node.text for hit in hits)


def simple_index(embed_model=None):
    return VectorStoreIndex(
        make_nodes(),
        storage_context=StorageContext.from_defaults(vector_store=SimpleVectorStore()),
        embed_model=embed_model or WordEmbedding(),
    )


def sparse(texts):
    words = [sorted({sum(map(ord, word)) % 997 for word in text.split()}) for text in texts]
    return words, [[1.0] * len(w) for w in words]


def hybrid_store(client):
    return QdrantVectorStore(
        collection_name="shop", client=client, enable_hybrid=True, sparse_doc_fn=sparse, sparse_query_fn=sparse
    )


def named_store(client):
    size = {"size": 64, "distance": models.Distance.COSINE}
    client.create_collection(
        "shop",
        vectors_config={
            "text-dense": models.VectorParams(**size),
            "other": models.VectorParams(size=3, distance=models.Distance.COSINE),
        },
    )
    return QdrantVectorStore(collection_name="shop", client=client, dense_vector_name="text-dense")


def store_of(client, distance, size=64):
    client.create_collection("shop", vectors_config=models.VectorParams(size=size, distance=distance))
    return QdrantVectorStore(collection_name="shop", client=client)


@contextmanager
def recorded():
    """Warnings of this package, as text."""
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    assert all(issubclass(w.category, InstructWarning) for w in caught), [str(w.message) for w in caught]
    said += [str(w.message) for w in caught]


class _Events(BaseEventHandler):
    _seen: list = PrivateAttr(default_factory=list)

    def handle(self, event, **_):
        self._seen.append(event)


@contextmanager
def events(*kinds):
    """Events of these kinds, in order."""
    handler, seen = _Events(), []
    dispatcher = get_dispatcher()
    dispatcher.add_event_handler(handler)
    try:
        yield seen
    finally:
        dispatcher.event_handlers.remove(handler)
        seen += [event for event in handler._seen if isinstance(event, kinds)]
