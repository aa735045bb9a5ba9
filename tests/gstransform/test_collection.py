"""Whole collections: what is written, what is refused, and what is left when a run stops anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
import weakref
from contextlib import closing
from dataclasses import astuple
from types import SimpleNamespace

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models
from qdrant_client.local.persistence import CollectionPersistence

import llama_index_instruct.gstransform.collection as collection_module
from llama_index_instruct import (
    CollectionError,
    ConfigurationError,
    DimensionMismatchError,
    GSTransform,
    IncompatibleStoreError,
    TransformedEmbedding,
    transform_collection,
)

D = 8
N = 120
SMALL = {"page": 20, "batch": 7, "progress": False}

DENSE = models.VectorParams(size=D, distance=models.Distance.COSINE)
OTHER = models.VectorParams(size=3, distance=models.Distance.COSINE)
SPARSE = {"words": models.SparseVectorParams()}
# What a source may look like: its configuration, the vector's name, and what to say to mean it.
LAYOUTS = {
    "unnamed": ({"vectors_config": DENSE}, "", ""),
    "named": ({"vectors_config": {"text": DENSE}}, "text", ""),
    "named, said": ({"vectors_config": {"text": DENSE}}, "text", "text"),
    "several": ({"vectors_config": {"text": DENSE, "other": OTHER}}, "text", "text"),
    "unnamed and named": ({"vectors_config": {"": DENSE, "other": OTHER}}, "", ""),
    "hybrid": ({"vectors_config": {"text": DENSE}, "sparse_vectors_config": SPARSE}, "text", ""),
    "unnamed hybrid": ({"vectors_config": DENSE, "sparse_vectors_config": SPARSE}, "", ""),
}


def fitted(seed=0, **settings):
    vectors = np.random.default_rng(100 + seed).normal(size=(60, D))
    return GSTransform.from_labels(vectors, [bool(v) for v in vectors[:, 0] > 0], instruction="x", **settings)


@pytest.fixture(scope="module")
def transform():
    return fitted()


def point_id(i):
    return i if i % 2 else str(uuid.uuid5(uuid.NAMESPACE_OID, str(i)))


def point(i, config, name, dense=True):
    rng = np.random.default_rng(i)
    vectors = {name: (3 * rng.normal(size=D)).tolist()} if dense else {}
    if isinstance(config["vectors_config"], dict) and "other" in config["vectors_config"]:
        vectors["other"] = rng.normal(size=3).tolist()
    if "sparse_vectors_config" in config:
        vectors["words"] = models.SparseVector(indices=[i % 5, 7], values=[1.0, 0.5])
    payload = {"n": i, "text": f"text {i}", "deep": {"list": [1, None, "ü"]}}
    return models.PointStruct(id=point_id(i), vector=vectors, payload=payload)


def fill(client, layout="unnamed", count=N, source="docs", start=0, without=()):
    config, name, said = LAYOUTS[layout]
    if not client.collection_exists(source):
        client.create_collection(source, **config)
    client.upsert(source, [point(i, config, name, i not in without) for i in range(start, start + count)])
    return name, said


def contents(client, name="docs", vectors=True):
    """Id -> (payload, vectors by name), every number as stored."""
    points = client.scroll(name, limit=10_000, with_vectors=vectors)[0]
    return {p.id: (p.payload, {"": p.vector} if isinstance(p.vector, list) else p.vector) for p in points}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def assert_transformed(client, transform, *, source="docs", target="mood", name="", vector="", atol=1e-6):
    """Every point of the source that has the vector is in the target, once transformed."""
    before, after = contents(client, source), contents(client, target)
    keys = [key for key, (_, vectors) in before.items() if name in vectors]
    assert keys == [key for key, (_, vectors) in after.items() if vector in vectors]
    if not keys:
        return
    assert [after[key][0] for key in keys] == [before[key][0] for key in keys]
    moved = unit(transform.transform(np.array([before[key][1][name] for key in keys])).astype(np.float64))
    np.testing.assert_allclose([after[key][1][vector] for key in keys], moved, atol=atol)


class QueryModel(MockEmbedding):
    vector: list[float]

    def __init__(self, vector):
        super().__init__(embed_dim=D, vector=vector)

    def _get_query_embedding(self, query):
        return self.vector


class Spy:
    """Calls of a client in order, each as (method, detail); ``before`` may raise."""

    def __init__(self, monkeypatch, client, before=lambda method, number: None):
        self.calls, self.before = [], before
        for method in ("scroll", "upsert", "update_vectors", "update_collection", "update_collection_aliases"):
            monkeypatch.setattr(client, method, self.wrap(method, getattr(client, method)))

    def wrap(self, method, real):
        def call(*args, **kwargs):
            self.before(method, self.count(method))
            result = real(*args, **kwargs)
            self.calls.append((method, [p.id for p in kwargs["points"]] if "points" in kwargs else None))
            return result

        return call

    def count(self, method):
        return sum(name == method for name, _ in self.calls)

    @property
    def written(self):
        return [key for method, keys in self.calls if method in ("upsert", "update_vectors") for key in keys]


@pytest.fixture
def pauses(monkeypatch):
    """Pauses between attempts, noted and not made."""
    made = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=made.append))
    return made


# What is written


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("vector", ["", "mood"])
def test_a_new_collection(memory_client, transform, layout, vector):
    name, said = fill(memory_client, layout)
    before = contents(memory_client)
    report = transform_collection(
        memory_client, "docs", "mood", transform, vector_name=said, target_vector=vector, **SMALL
    )
    assert astuple(report)[:-1] == ("docs", "mood", vector, N, 0, False, True) and report.seconds > 0
    assert_transformed(memory_client, transform, name=name, vector=vector)
    assert contents(memory_client) == before
    params = memory_client.get_collection("mood").config.params
    config = params.vectors[vector] if vector else params.vectors
    assert (config.size, config.distance) == (transform.output_dimension, models.Distance.COSINE)
    assert not params.sparse_vectors


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_new_vector_of_the_same_collection(memory_client, transform, layout):
    name, said = fill(memory_client, layout)
    before = contents(memory_client)
    report = transform_collection(
        memory_client, "docs", "docs", transform, vector_name=said, target_vector="mood", **SMALL
    )
    assert (report.target, report.target_vector, report.transformed, report.complete) == ("docs", "mood", N, True)
    assert_transformed(memory_client, transform, target="docs", name=name, vector="mood")
    after = contents(memory_client)
    for key, (payload, vectors) in before.items():
        assert after[key] == (payload, {**vectors, "mood": after[key][1]["mood"]})
    again = transform_collection(
        memory_client, "docs", "docs", transform, vector_name=said, target_vector="mood", **SMALL
    )
    assert (again.transformed, again.resumed, again.complete) == (0, True, True)
    assert contents(memory_client) == after


def test_the_new_vector_is_searched_by_its_name(memory_client, transform):
    fill(memory_client, "named")
    transform_collection(memory_client, "docs", "docs", transform, target_vector="mood", **SMALL)
    stored = contents(memory_client)
    query = np.random.default_rng(7).normal(size=D)
    scores = {key: transform.similarity(query, [vectors["text"]])[0] for key, (_, vectors) in stored.items()}
    best = sorted(scores, key=scores.get, reverse=True)[:10]
    hits = memory_client.query_points(
        "docs", query=transform.transform_query(query).tolist(), using="mood", limit=10
    ).points
    assert [hit.id for hit in hits] == best
    np.testing.assert_allclose([hit.score for hit in hits], [scores[key] for key in best], atol=1e-6)
    store = QdrantVectorStore("docs", client=memory_client, dense_vector_name="mood")
    model = TransformedEmbedding(QueryModel(vector=query.tolist()), transform)
    nodes = VectorStoreIndex.from_vector_store(store, embed_model=model).as_retriever(similarity_top_k=10).retrieve("q")
    assert [node.node.get_content() for node in nodes] == [stored[key][0]["text"] for key in best]


@pytest.mark.parametrize("layout", ["unnamed", "named", "several", "hybrid", "unnamed hybrid"])
@pytest.mark.parametrize("same", [False, True])
def test_points_without_the_vector_are_counted(memory_client, transform, layout, same):
    without = {3, 4, 5, 6, 50, N - 1}
    name, said = fill(memory_client, layout, without=without)
    before = contents(memory_client)
    target, vector = ("docs", "mood") if same else ("mood", "")
    report = transform_collection(
        memory_client, "docs", target, transform, vector_name=said, target_vector=vector, **SMALL
    )
    assert (report.transformed, report.without_vector, report.complete) == (N - len(without), len(without), True)
    assert_transformed(memory_client, transform, target=target, name=name, vector=vector)
    if not same:
        assert contents(memory_client) == before
    again = transform_collection(
        memory_client, "docs", target, transform, vector_name=said, target_vector=vector, **SMALL
    )
    assert (again.transformed, again.complete) == (0, True)


@pytest.mark.parametrize(
    ("count", "page", "batch"), [(1, 1, 1), (40, 20, 20), (41, 20, 20), (39, 20, 50), (30, 100, 3)]
)
def test_pages_and_batches_at_their_edges(memory_client, transform, count, page, batch):
    fill(memory_client, count=count)
    report = transform_collection(memory_client, "docs", "mood", transform, page=page, batch=batch, progress=False)
    assert report.transformed == count
    assert_transformed(memory_client, transform)


@pytest.mark.parametrize("same", [False, True])
def test_an_empty_source(memory_client, transform, same):
    memory_client.create_collection("docs", vectors_config={"text": DENSE})
    target, vector = ("docs", "mood") if same else ("mood", "")
    for resumed in (False, True):
        report = transform_collection(memory_client, "docs", target, transform, target_vector=vector, **SMALL)
        assert (report.transformed, report.without_vector, report.resumed, report.complete) == (0, 0, resumed, True)
    assert contents(memory_client, target) == {}


def test_two_transforms_side_by_side(memory_client, transform):
    fill(memory_client, "named")
    other = fitted(1)
    for name, one in (("mood", transform), ("topic", other), ("mood", transform)):
        transform_collection(memory_client, "docs", "docs", one, vector_name="text", target_vector=name, **SMALL)
    assert_transformed(memory_client, transform, target="docs", name="text", vector="mood")
    assert_transformed(memory_client, other, target="docs", name="text", vector="topic")


def test_defaults_and_the_progress_bar(memory_client, transform, capsys):
    fill(memory_client)
    transform_collection(memory_client, "docs", "mood", transform)
    assert f"{N}/{N}" in capsys.readouterr().err
    assert_transformed(memory_client, transform)
    transform_collection(memory_client, "docs", "calm", transform, progress=False)
    assert capsys.readouterr() == ("", "")


# What is refused


@pytest.mark.parametrize("setting", ["batch", "page", "parallel", "retries"])
@pytest.mark.parametrize("value", [0, -1])
def test_numbers_out_of_range(memory_client, transform, setting, value):
    if (setting, value) == ("retries", 0):
        return
    fill(memory_client, count=3)
    with pytest.raises(ConfigurationError, match=f"{setting}: .*{value}$"):
        transform_collection(memory_client, "docs", "mood", transform, **{**SMALL, setting: value})
    assert not memory_client.collection_exists("mood")


@pytest.mark.parametrize("part", [{"id_range": (None, None)}, {"shard_key": "a"}, {"shard_key": 0}])
def test_an_alias_is_for_the_whole(memory_client, transform, part):
    fill(memory_client, count=3)
    with pytest.raises(ConfigurationError, match="alias"):
        transform_collection(memory_client, "docs", "mood", transform, alias="live", **part, **SMALL)
    assert not memory_client.collection_exists("mood")


def foreign_collection(client):
    client.create_collection("mood", vectors_config=models.VectorParams(size=D + 2, distance=models.Distance.COSINE))


REFUSED = {
    "in place": (ConfigurationError, "'docs' is the source", "unnamed", {"target": "docs"}),
    "missing source": (CollectionError, "'nothing'", "unnamed", {"source": "nothing"}),
    "foreign target": (CollectionError, "'mood' exists", "unnamed", {"prepare": foreign_collection}),
    "the vector itself": (
        (CollectionError, ConfigurationError),
        "exists|is the source",
        "named",
        {"target": "docs", "target_vector": "text"},
    ),
    "another vector": (
        CollectionError,
        "'other'.* exists",
        "several",
        {"target": "docs", "vector_name": "text", "target_vector": "other"},
    ),
    "a sparse vector": (CollectionError, "'words'.* exists", "hybrid", {"target": "docs", "target_vector": "words"}),
    "which of two": (ConfigurationError, "'text', 'other'", "several", {}),
    "no such vector": (ConfigurationError, "'title'.*'text'", "named", {"vector_name": "title"}),
    "unnamed": (ConfigurationError, "'title'.*unnamed", "unnamed", {"vector_name": "title"}),
    "wrong vector": (DimensionMismatchError, f"expects {D}.* has 3", "several", {"vector_name": "other"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(memory_client, transform, case):
    error, message, layout, arguments = REFUSED[case]
    fill(memory_client, layout, count=5)
    arguments = {"source": "docs", "target": "mood", **arguments}
    arguments.pop("prepare", lambda client: None)(memory_client)
    before = (
        contents(memory_client),
        memory_client.get_collection("docs").config.params,
        memory_client.get_collections(),
    )
    with pytest.raises(error, match=message):
        transform_collection(memory_client, transform=transform, **arguments, **SMALL)
    assert (
        contents(memory_client),
        memory_client.get_collection("docs").config.params,
        memory_client.get_collections(),
    ) == before


@pytest.mark.parametrize(
    ("fit", "distance", "error", "message"),
    [
        ({"distance": "Cosine"}, "Euclid", IncompatibleStoreError, "Cosine.*Euclid"),
        ({"normalize": False}, "Cosine", IncompatibleStoreError, "normalize"),
    ],
)
def test_other_distances(memory_client, fit, distance, error, message):
    memory_client.create_collection("docs", vectors_config=models.VectorParams(size=D, distance=distance))
    with pytest.raises(error, match=message):
        transform_collection(memory_client, "docs", "mood", fitted(**fit), **SMALL)
    assert not memory_client.collection_exists("mood")


def test_lengths_that_a_store_keeps(memory_client):
    memory_client.create_collection("docs", vectors_config=models.VectorParams(size=D, distance=models.Distance.DOT))
    config = {"vectors_config": DENSE}
    memory_client.upsert("docs", [point(i, config, "") for i in range(30)])
    raw = fitted(distance="Dot", normalize=False)
    transform_collection(memory_client, "docs", "mood", raw, **SMALL)
    assert_transformed(memory_client, raw)


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resume": False}, "exists; call with resume=True"),
        ({"transform": fitted(1)}, "another transform"),
        ({"vector_name": "more"}, "'text'.*'more'"),
    ],
)
def test_a_target_of_other_work(memory_client, transform, same, arguments, message):
    memory_client.create_collection("docs", vectors_config={"text": DENSE, "more": DENSE})
    config = {"vectors_config": {}}
    memory_client.upsert("docs", [point(i, config, "text") for i in range(5)])
    target = {"target": "docs" if same else "mood", "target_vector": "mood"}
    given = {"transform": transform, "vector_name": "text", **target, **SMALL}
    transform_collection(memory_client, "docs", **given)
    kept = contents(memory_client, target["target"])
    with pytest.raises(CollectionError, match=message):
        transform_collection(memory_client, "docs", **{**given, **arguments})
    assert contents(memory_client, target["target"]) == kept


def test_a_target_made_from_another_source(memory_client, transform):
    fill(memory_client, count=5)
    fill(memory_client, count=5, source="more")
    transform_collection(memory_client, "docs", "mood", transform, **SMALL)
    with pytest.raises(CollectionError, match=r"'docs'.*'more'"):
        transform_collection(memory_client, "more", "mood", transform, **SMALL)


def test_never_in_place_by_way_of_an_alias(memory_client):
    square = fitted(output_dimension=D)
    fill(memory_client)
    memory_client.update_collection_aliases(
        [models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name="docs", alias_name="live"))]
    )
    transform_collection(memory_client, "live", "mood", square, alias="live", **SMALL)
    kept = contents(memory_client, "mood")
    # Now "live" is the target itself.
    for _ in range(3):
        with pytest.raises((CollectionError, ConfigurationError)):
            transform_collection(memory_client, "live", "mood", square, alias="live", **SMALL)
        assert contents(memory_client, "mood") == kept


def test_a_vector_that_was_dropped_is_made_anew(memory_client, transform):
    fill(memory_client, "named")
    other = fitted(1)
    given = {"vector_name": "text", "target_vector": "mood", "checked_sample": N, **SMALL}
    transform_collection(memory_client, "docs", "docs", transform, **given)
    memory_client.delete_vector_name("docs", "mood")
    report = transform_collection(memory_client, "docs", "docs", other, **given)
    assert (report.transformed, report.resumed, report.complete) == (N, False, True)
    assert_transformed(memory_client, other, target="docs", name="text", vector="mood")


# Once, whatever happens


@pytest.mark.parametrize("same", [False, True])
def test_running_twice_writes_nothing(memory_client, transform, monkeypatch, same):
    fill(memory_client, "named")
    target, vector = ("docs", "mood") if same else ("mood", "")
    spy = Spy(monkeypatch, memory_client)
    first = transform_collection(memory_client, "docs", target, transform, target_vector=vector, **SMALL)
    assert sorted(map(str, spy.written)) == sorted(map(str, map(point_id, range(N))))
    kept = contents(memory_client, target)
    spy.calls.clear()
    second = transform_collection(memory_client, "docs", target, transform, target_vector=vector, **SMALL)
    assert (first.transformed, first.resumed, second.transformed, second.resumed) == (N, False, 0, True)
    assert second.complete and not spy.written and contents(memory_client, target) == kept


@pytest.mark.parametrize(("same", "failure"), [(False, KeyboardInterrupt), (True, KeyboardInterrupt), (False, OSError)])
@pytest.mark.parametrize(
    ("method", "stop"),
    [("write", 0), ("write", 7), ("write", 17), ("scroll", 0), ("scroll", 4), ("update_collection", 1)],
)
def test_stopped_and_taken_up(memory_client, transform, monkeypatch, pauses, same, stop, failure, method):
    fill(memory_client, "named")
    before = contents(memory_client)
    target, vector = ("docs", "mood") if same else ("mood", "")
    writing = "update_vectors" if same else "upsert"

    def before_call(called, number):
        if called == (writing if method == "write" else method) and number >= stop:
            raise failure("no")

    given = {"target_vector": vector, "retries": 2, **SMALL}
    with monkeypatch.context() as patch:
        spy = Spy(patch, memory_client, before_call)
        with pytest.raises(KeyboardInterrupt if failure is KeyboardInterrupt else CollectionError):
            transform_collection(memory_client, "docs", target, transform, **given)
    acknowledged = spy.count("update_collection") - same
    ids = list(before)
    spy = Spy(monkeypatch, memory_client)
    report = transform_collection(memory_client, "docs", target, transform, **given)
    # Nothing acknowledged is written again, and everything else is.
    assert spy.written == ids[acknowledged * SMALL["page"] :] and report.transformed == len(spy.written)
    assert report.resumed == (acknowledged > 0) and report.complete
    assert_transformed(memory_client, transform, target=target, name="text", vector=vector)
    if not same:
        assert contents(memory_client) == before
    transform_collection(memory_client, "docs", "whole", transform, vector_name="text", **SMALL)
    through, taken_up = contents(memory_client, "whole"), contents(memory_client, target)
    np.testing.assert_allclose(
        [vectors[vector] for _, vectors in taken_up.values()],
        [vectors[""] for _, vectors in through.values()],
        atol=1e-7,
    )


def test_a_passing_failure_is_tried_again(memory_client, transform, monkeypatch, pauses):
    fill(memory_client)
    failures = iter([True, True, False] + [False, True] * 100)

    def before_call(called, number):
        if called == "upsert" and next(failures):
            raise OSError("no")

    Spy(monkeypatch, memory_client, before_call)
    report = transform_collection(memory_client, "docs", "mood", transform, retries=2, **SMALL)
    assert report.complete and pauses[1] > pauses[0] > 0
    assert_transformed(memory_client, transform)


@pytest.mark.parametrize("retries", [0, 2])
def test_a_lasting_failure_is_tried_so_many_times(memory_client, transform, monkeypatch, pauses, retries):
    fill(memory_client)
    tried = []

    def before_call(called, number):
        if called == "upsert":
            tried.append(number)
            raise OSError("no")

    Spy(monkeypatch, memory_client, before_call)
    with pytest.raises(CollectionError, match=r"after 0 points \(OSError\)") as caught:
        transform_collection(memory_client, "docs", "mood", transform, retries=retries, page=20, progress=False)
    assert isinstance(caught.value.__cause__, OSError)
    # One page more may have been on its way.
    assert len(tried) in (retries + 1, 2 * (retries + 1))


@pytest.fixture
def no_fsync(monkeypatch):
    """A killed process loses nothing by it, and tests do not cut the power."""
    real = CollectionPersistence._ensure_table

    def ensure(storage):
        storage.storage.execute("PRAGMA synchronous = OFF")
        real(storage)

    monkeypatch.setattr(CollectionPersistence, "_ensure_table", ensure)


KILLED = """
import os, signal, sys
from qdrant_client import QdrantClient
from qdrant_client.local.persistence import CollectionPersistence
from qdrant_client.local.qdrant_local import QdrantLocal
from llama_index_instruct import GSTransform, transform_collection
import portalocker

path, folder, target, vector, *moments = sys.argv[1:]
transform = GSTransform.from_pretrained(folder)

make = CollectionPersistence._ensure_table

def unsynchronised(storage):
    storage.storage.execute("PRAGMA synchronous = OFF")
    make(storage)

CollectionPersistence._ensure_table = unsynchronised

def counted(real, left):
    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call

for moment in map(int, moments):
    child = os.fork()
    if child == 0:
        client = QdrantClient(path=path)
        left = [moment]
        CollectionPersistence.persist = counted(CollectionPersistence.persist, left)
        QdrantLocal._save = counted(QdrantLocal._save, left)
        transform_collection(client, "docs", target, transform, target_vector=vector, page=20, batch=7, progress=False)
        client.close()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
@pytest.mark.parametrize("same", [False, True])
def test_killed_at_any_moment(tmp_path, transform, monkeypatch, no_fsync, same):
    count = N
    target, vector = ("docs", "mood") if same else ("mood", "")
    path = str(tmp_path / "qdrant")
    transform.save_pretrained(tmp_path / "transform")
    client = QdrantClient(path=path)
    fill(client, "named", count=count)
    client.close()
    # Opened again, a folder gives vectors as they were sent: not of unit length.
    client = QdrantClient(path=path)
    before = contents(client)
    client.close()
    rng = np.random.default_rng(int(same))
    # One count for every point and state written: the first ones fall into the making of the target.
    moments = [0, 1, 2, *rng.integers(3, 80, size=3)]
    command = [sys.executable, "-c", KILLED, path, str(tmp_path / "transform"), target, vector, *map(str, moments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    codes = [int(line) for line in done.stdout.split()]
    assert len(codes) == len(moments) and set(codes) <= {-9, 0}, done.stderr
    assert codes.count(-9) >= 5
    client = QdrantClient(path=path)
    try:
        spy = Spy(monkeypatch, client)
        report = transform_collection(client, "docs", target, transform, target_vector=vector, **SMALL)
        assert report.resumed and report.complete and len(spy.written) < count
        assert_transformed(client, transform, target=target, name="text", vector=vector)
        after = contents(client)
        assert {key: (payload, {"text": vectors["text"]}) for key, (payload, vectors) in after.items()} == before
        # Counted: originals in the source, and in the target one transform of each, never two.
        once = transform.transform(np.array([vectors["text"] for _, vectors in before.values()]))
        stored = np.array([vectors[vector] for _, vectors in contents(client, target).values()])
        assert (np.abs(stored - unit(once)).max(axis=1) < 1e-6).sum() == count
    finally:
        client.close()


def test_in_a_folder_and_opened_again(tmp_path, transform, no_fsync):
    for again in (False, True):
        with closing(QdrantClient(path=str(tmp_path))) as client:
            if not again:
                fill(client, count=50)
            report = transform_collection(client, "docs", "mood", transform, alias="live", **SMALL)
            assert_transformed(client, transform)
    assert (report.transformed, report.resumed) == (0, True)


# The source changes, or the target does


def targets_of_alias(client):
    return {known.alias_name: known.collection_name for known in client.get_aliases().aliases}


def test_points_added_behind_the_cursor(memory_client, transform, monkeypatch):
    config = {"vectors_config": DENSE}
    memory_client.create_collection("docs", vectors_config=DENSE)
    points = [point(2 * i + 1, config, "") for i in range(20, 100)]
    memory_client.upsert("docs", points)
    late = [point(i, config, "") for i in (1, 3, 5)]
    real = memory_client.upsert

    def before_call(called, number):
        if called == "upsert" and number == 6:
            real("docs", late)

    given = {"alias": "live", "checked_sample": 0, **SMALL}
    with monkeypatch.context() as patch:
        Spy(patch, memory_client, before_call)
        with pytest.raises(CollectionError, match="expected 83 transformed points, found 80"):
            transform_collection(memory_client, "docs", "mood", transform, **given)
    assert targets_of_alias(memory_client) == {}
    report = transform_collection(memory_client, "docs", "mood", transform, **given)
    assert report.complete and targets_of_alias(memory_client) == {"live": "mood"}
    assert_transformed(memory_client, transform)


@pytest.mark.parametrize("same", [False, True])
def test_points_added_after_a_finished_run(memory_client, transform, same):
    fill(memory_client, "named")
    given = ("docs", "docs" if same else "mood", transform)
    transform_collection(memory_client, *given, target_vector="mood", vector_name="text", **SMALL)
    fill(memory_client, "named", start=N, count=10)
    with pytest.raises(CollectionError, match=f"{N + 10}.*{N}"):
        transform_collection(memory_client, *given, target_vector="mood", vector_name="text", **SMALL)
    report = transform_collection(memory_client, *given, target_vector="mood", vector_name="text", **SMALL)
    assert (report.transformed, report.complete) == (N + 10, True)
    assert_transformed(memory_client, transform, target=given[1], name="text", vector="mood")


@pytest.mark.parametrize("damage", ["tampered", "missing", "swapped"])
@pytest.mark.parametrize("same", [False, True])
def test_a_damaged_target_is_found_and_healed(memory_client, transform, damage, same):
    fill(memory_client, "named")
    target = "docs" if same else "mood"
    given = {"vector_name": "text", "target_vector": "mood", "checked_sample": N, "alias": "live", **SMALL}
    transform_collection(memory_client, "docs", target, transform, **{**given, "alias": None})
    if damage == "missing" and same:
        memory_client.delete_vectors(target, ["mood"], [point_id(4)])
    elif damage == "missing":
        # As many as in the source, but not the same ones.
        memory_client.delete(target, [point_id(4)])
        extra = models.PointStruct(id=10_001, vector={"mood": [1.0] * transform.output_dimension})
        memory_client.upsert(target, [extra])
    else:
        size = transform.output_dimension
        vector = [1.0] * size if damage == "tampered" else contents(memory_client, target)[point_id(5)][1]["mood"]
        memory_client.update_vectors(target, [models.PointVectors(id=point_id(4), vector={"mood": vector})])
    with pytest.raises(CollectionError, match="same call"):
        transform_collection(memory_client, "docs", target, transform, **given)
    assert targets_of_alias(memory_client) == {}
    if damage == "missing" and not same:
        memory_client.delete(target, [10_001])
    report = transform_collection(memory_client, "docs", target, transform, **given)
    assert (report.transformed, report.complete) == (N, True) and targets_of_alias(memory_client) == {"live": target}
    assert_transformed(memory_client, transform, target=target, name="text", vector="mood")


def test_no_sample_checks_by_count_only(memory_client, transform):
    fill(memory_client)
    transform_collection(memory_client, "docs", "mood", transform, **SMALL)
    wrong = models.PointVectors(id=1, vector=[1.0] * transform.output_dimension)
    memory_client.update_vectors("mood", [wrong])
    assert transform_collection(memory_client, "docs", "mood", transform, checked_sample=0, **SMALL).complete


def test_aliases(memory_client, transform):
    fill(memory_client)
    fill(memory_client, source="old", count=3)
    alias = models.CreateAlias(collection_name="old", alias_name="live")
    kept = models.CreateAlias(collection_name="old", alias_name="archive")
    memory_client.update_collection_aliases([models.CreateAliasOperation(create_alias=one) for one in (alias, kept)])
    transform_collection(memory_client, "docs", "mood", transform, alias="live", **SMALL)
    assert targets_of_alias(memory_client) == {"live": "mood", "archive": "old"}
    transform_collection(memory_client, "docs", "mood", transform, alias="live", **SMALL)
    transform_collection(memory_client, "docs", "mood", transform, alias="new", **SMALL)
    assert targets_of_alias(memory_client) == {"live": "mood", "archive": "old", "new": "mood"}
    assert contents(memory_client, "live") == contents(memory_client, "mood")


def test_an_alias_is_switched_after_everything_else(memory_client, transform, monkeypatch):
    fill(memory_client)
    spy = Spy(monkeypatch, memory_client)
    transform_collection(memory_client, "docs", "mood", transform, alias="live", **SMALL)
    assert spy.count("update_collection_aliases") == 1 and spy.calls[-1][0] == "update_collection_aliases"


# In parts


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("without", [(), (5, 6, 90)])
@pytest.mark.parametrize("at", [31, 0, point_id(30)])
def test_parts_and_then_the_whole(memory_client, transform, monkeypatch, same, without, at):
    fill(memory_client, "named", without=without)
    target, vector = ("docs", "mood") if same else ("mood", "")
    given = {"vector_name": "text", "target_vector": vector, **SMALL}
    spy = Spy(monkeypatch, memory_client)
    parts = [
        transform_collection(memory_client, "docs", target, transform, id_range=ids, **given)
        for ids in ((None, at), (at, None))
    ]
    assert not any(part.complete for part in parts)
    assert sum(part.transformed for part in parts) == N - len(without) == len(spy.written) == len(set(spy.written))
    assert sum(part.without_vector for part in parts) == len(without)
    again = transform_collection(memory_client, "docs", target, transform, id_range=(None, at), **given)
    assert (again.transformed, again.resumed) == (0, True)
    spy.calls.clear()
    whole = transform_collection(memory_client, "docs", target, transform, alias="live", **given)
    assert whole.complete and not spy.written and whole.transformed == 0
    assert_transformed(memory_client, transform, target=target, name="text", vector=vector)
    assert transform_collection(memory_client, "docs", target, transform, **given).complete and not spy.written


def test_a_missing_part_is_made_up_for(memory_client, transform, monkeypatch):
    fill(memory_client)
    transform_collection(memory_client, "docs", "mood", transform, id_range=(None, 41), **SMALL)
    assert len(contents(memory_client, "mood")) == 20
    report = transform_collection(memory_client, "docs", "mood", transform, **SMALL)
    assert report.complete
    assert_transformed(memory_client, transform)


@pytest.mark.parametrize("spelling", [str, str.upper, uuid.UUID, lambda text: text.replace("-", "")])
def test_ranges_of_uuids_however_spelled(memory_client, transform, spelling):
    fill(memory_client)
    ids = [key for key in contents(memory_client) if isinstance(key, str)]
    first, stop = ids[10], ids[30]
    report = transform_collection(
        memory_client, "docs", "mood", transform, id_range=(spelling(first), spelling(stop)), **SMALL
    )
    assert report.transformed == 20 and list(contents(memory_client, "mood")) == ids[10:30]


def test_a_stopped_part_goes_on_inside_its_range(memory_client, transform, monkeypatch, pauses):
    fill(memory_client)
    ids = list(contents(memory_client))
    part = {"id_range": (11, 111), "retries": 0, **SMALL, "page": 10}

    def before_call(called, number):
        if called == "upsert" and number >= 4:
            raise OSError("no")

    with monkeypatch.context() as patch:
        Spy(patch, memory_client, before_call)
        with pytest.raises(CollectionError):
            transform_collection(memory_client, "docs", "mood", transform, **part)
    report = transform_collection(memory_client, "docs", "mood", transform, **part)
    assert report.resumed and report.transformed == 30
    assert list(contents(memory_client, "mood")) == ids[5:55]


# Memory


@pytest.mark.parametrize("remote", [False, True])
def test_pages_do_not_pile_up(memory_client, transform, monkeypatch, fake_qdrant, remote):
    client = QdrantClient(url=fake_qdrant.url, check_compatibility=False) if remote else memory_client
    fill(fake_qdrant.local if remote else memory_client)
    alive, most = [], 0
    real_pages, states = collection_module._pages, []

    def watched(*args):
        nonlocal most
        for page in real_pages(*args):
            alive.append(weakref.ref(page))
            most = max(most, sum(one() is not None for one in alive))
            # Page k + 2 is asked for only when page k is acknowledged.
            assert len(alive) - len(states) <= 2
            yield page
            del page

    real_update = client.update_collection

    def update(*args, **kwargs):
        real_update(*args, **kwargs)
        states.append(kwargs)

    monkeypatch.setattr(collection_module, "_pages", watched)
    monkeypatch.setattr(client, "update_collection", update)
    assert transform_collection(client, "docs", "mood", transform, **{**SMALL, "page": 10}).transformed == N
    assert len(alive) == N / 10 and most <= 3
    client.close()


def test_no_page_is_read_before_the_one_before_the_last_is_written(memory_client, transform, monkeypatch):
    fill(memory_client)
    written_at_scroll, spy = [], None

    def before_call(called, number):
        if called == "scroll":
            written_at_scroll.append(len(spy.written))

    spy = Spy(monkeypatch, memory_client, before_call)
    transform_collection(memory_client, "docs", "mood", transform, **SMALL)
    assert len(written_at_scroll) == N // 20
    assert all(done >= 20 * (page - 1) for page, done in enumerate(written_at_scroll))


# Over the wire


@pytest.fixture
def wire(fake_qdrant):
    client = QdrantClient(url=fake_qdrant.url, check_compatibility=False)
    yield client
    client.close()


@pytest.mark.parametrize("layout", ["unnamed", "several", "hybrid", "unnamed hybrid"])
@pytest.mark.parametrize("same", [False, True])
def test_over_the_wire(fake_qdrant, wire, transform, layout, same):
    name, said = fill(fake_qdrant.local, layout)
    before = contents(fake_qdrant.local)
    target, vector = ("docs", "mood") if same else ("mood", "")
    given = {"vector_name": said, "target_vector": vector, "checked_sample": N, "parallel": 4, **SMALL}
    report = transform_collection(wire, "docs", target, transform, alias="live", **given)
    assert (report.transformed, report.complete) == (N, True)
    assert_transformed(fake_qdrant.local, transform, target=target, name=name, vector=vector)
    if not same:
        assert contents(fake_qdrant.local) == before
    assert targets_of_alias(fake_qdrant.local) == {"live": target}
    fake_qdrant.log.clear()
    again = transform_collection(wire, "docs", target, transform, alias="live", **given)
    assert (again.transformed, again.resumed) == (0, True)
    assert not [path for command, path, _ in fake_qdrant.log if command == "PUT"]


def is_write(command, path, _):
    return command == "PUT" and path in ("/collections/mood/points", "/collections/docs/points/vectors")


@pytest.mark.parametrize("same", [False, True])
def test_one_failing_request_is_made_again(fake_qdrant, wire, transform, pauses, same):
    fill(fake_qdrant.local, "named")
    target, vector = ("docs", "mood") if same else ("mood", "")
    failures = iter([False, False, True] + [False] * 1000)
    fake_qdrant.fault = lambda *request: is_write(*request) and next(failures)
    report = transform_collection(wire, "docs", target, transform, target_vector=vector, **SMALL)
    assert (report.transformed, report.complete) == (N, True) and len(pauses) == 1
    assert_transformed(fake_qdrant.local, transform, target=target, name="text", vector=vector)


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("after", [0, 1, 8])
def test_a_server_that_stays_down_and_comes_back(fake_qdrant, wire, transform, pauses, same, after):
    fill(fake_qdrant.local, "named")
    target, vector = ("docs", "mood") if same else ("mood", "")
    requests = []

    def down(*request):
        requests.append(is_write(*request))
        return sum(requests) > after and requests[-1]

    fake_qdrant.fault = down
    given = {"target_vector": vector, "checked_sample": N, "alias": "live", **SMALL}
    with pytest.raises(CollectionError, match="same call") as caught:
        transform_collection(wire, "docs", target, transform, **given)
    assert type(caught.value.__cause__).__name__ == "UnexpectedResponse"
    assert targets_of_alias(fake_qdrant.local) == {}
    fake_qdrant.fault = None
    report = transform_collection(wire, "docs", target, transform, **given)
    assert report.complete and report.resumed == (after == 8) and report.transformed == (80 if after == 8 else N)
    assert_transformed(fake_qdrant.local, transform, target=target, name="text", vector=vector)


def test_an_upper_page_written_first_is_not_counted_as_done(fake_qdrant, wire, transform, pauses):
    fill(fake_qdrant.local)
    keys = list(contents(fake_qdrant.local))
    doomed = keys[25]
    fake_qdrant.fault = lambda *request: is_write(*request) and doomed in [p["id"] for p in request[2]["points"]]
    with pytest.raises(CollectionError):
        transform_collection(wire, "docs", "mood", transform, **SMALL)
    there = contents(fake_qdrant.local, "mood")
    assert doomed not in there and len(there) > 20
    fake_qdrant.fault = None
    report = transform_collection(wire, "docs", "mood", transform, **SMALL)
    assert (report.transformed, report.resumed) == (N - 20, True)
    assert_transformed(fake_qdrant.local, transform)


INDEXES = {"n": models.PayloadSchemaType.INTEGER, "text": models.TextIndexParams(type="text", lowercase=True)}


@pytest.mark.parametrize("stopped", [None, "n", "text"])
def test_payload_indexes_go_along(fake_qdrant, wire, transform, stopped):
    fill(fake_qdrant.local)
    for field, schema in INDEXES.items():
        wire.create_payload_index("docs", field, field_schema=schema)
    if stopped:
        fake_qdrant.fault = lambda command, path, body: path.endswith("/index") and body["field_name"] == stopped
        with pytest.raises(Exception, match="fault"):
            transform_collection(wire, "docs", "mood", transform, retries=0, **SMALL)
        fake_qdrant.fault = None
    transform_collection(wire, "docs", "mood", transform, **SMALL)
    schema = wire.get_collection("mood").payload_schema
    assert {field: index.data_type.value for field, index in schema.items()} == {"n": "integer", "text": "text"}
    assert schema == wire.get_collection("docs").payload_schema


def test_many_writers_are_never_let_into_an_in_process_qdrant(memory_client, transform, monkeypatch):
    fill(memory_client)
    now, most, real = [], [], memory_client.upsert

    def upsert(*args, **kwargs):
        now.append(1)
        most.append(len(now))
        real(*args, **kwargs)
        now.pop()

    monkeypatch.setattr(memory_client, "upsert", upsert)
    transform_collection(memory_client, "docs", "mood", transform, parallel=8, page=20, batch=2, progress=False)
    assert max(most) == 1
    assert_transformed(memory_client, transform)
