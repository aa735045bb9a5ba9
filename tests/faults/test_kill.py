"""F18, F23: SIGKILL at any moment of fitting, saving and transforming a collection; what is left, and what goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import victim
from gstransform.labelling import LabellingLLM, without_sleep
from qdrant_client import QdrantClient, models

import llama_index_instruct
from llama_index_instruct.gstransform.transform import GSTransform

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL"),
    pytest.mark.timeout(180),
]

POINTS = 150


def stored(client, name):
    """Id -> payload and vector, every number as stored."""
    return {p.id: (p.payload, p.vector) for p in client.scroll(name, limit=1000, with_vectors=True)[0]}


def filled(path):
    client = QdrantClient(path=str(path))
    client.create_collection("docs", vectors_config=models.VectorParams(size=8, distance=models.Distance.COSINE))
    vectors = np.random.default_rng(0).normal(size=(POINTS, 8)).tolist()
    client.upsert(
        "docs", [models.PointStruct(id=i, vector=vector, payload={"n": i}) for i, vector in enumerate(vectors)]
    )
    return client


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What is left after all kills, in a folder each for fits, saves and collections."""
    folder = tmp_path_factory.mktemp("killed")
    for name in ("fits", "saves", "collections"):
        (folder / name).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(victim.CollectionPersistence, "_ensure_table", victim.CollectionPersistence._ensure_table)
        victim.without_fsync()
        filled(folder / "collections" / "qdrant").close()
    roots = [Path(__file__).parents[1], Path(llama_index_instruct.__file__).parents[1]]
    settings = {"PYTHONPATH": os.pathsep.join(map(str, roots)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, victim.__file__, str(folder)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env={**os.environ, **settings},
    )
    assert done.returncode == 0, done.stderr
    return folder


# fit_gstransform with a checkpoint


@pytest.fixture
def no_pauses(monkeypatch):
    without_sleep(monkeypatch)


def assert_same(one, other):
    assert one.info.labels == other.info.labels and one.digest == other.digest
    np.testing.assert_array_equal(one.search, other.search)


def test_a_fit_goes_on_and_pays_again_only_for_what_was_in_flight(killed, tmp_path, no_pauses):
    folder = killed / "fits"
    ledger = (folder / "ledger").read_text().splitlines()
    answers = (folder / "checkpoint" / "answers.jsonl").read_bytes().split(b"\n")
    # Of calls: the categories, worked out from them, are kept in the same file.
    kept = {row["key"] for row in map(json.loads, answers[:-1]) if not row["answer"].startswith("{")}
    # In flight at the last kill: paid, but not kept.
    assert 0 <= len(set(ledger)) - len(kept) <= victim.WORKERS
    whole = LabellingLLM(**victim.misbehaving())
    uninterrupted = victim.fit(tmp_path, whole)
    assert len(kept) < len(whole.calls)
    last = victim.PayingLLM(ledger=folder / "ledger", step=lambda: None, **victim.misbehaving())
    transform = victim.fit(folder, last)
    assert_same(transform, uninterrupted)
    paid = Counter((folder / "ledger").read_text().splitlines())
    assert len(paid) == len(whole.calls) and transform.info.labelling["usage"]["calls"] == len(last.calls)
    assert sum(paid.values()) - len(paid) <= victim.KILLS * victim.WORKERS
    assert max(paid.values()) <= 1 + victim.KILLS


# GSTransform.save_pretrained


@pytest.mark.parametrize("kill", range(victim.KILLS))
def test_a_saved_transform_is_the_old_or_the_new_one(killed, kill):
    folder = killed / "saves" / f"left by kill {kill}"
    loaded = GSTransform.from_pretrained(folder)
    assert_same(loaded, victim.fitted(int(loaded.info.instruction.split()[-1])))
    third = victim.fitted(3)
    third.save_pretrained(folder)
    assert_same(GSTransform.from_pretrained(folder), third)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


# transform_collection on an in-process Qdrant in a folder


def test_a_collection_goes_on_to_the_same_vectors(killed, tmp_path, monkeypatch):
    monkeypatch.setattr(victim.CollectionPersistence, "_ensure_table", victim.CollectionPersistence._ensure_table)
    victim.without_fsync()
    with closing(filled(tmp_path / "whole")) as client:
        source = stored(client, "docs")
    # Opened again, for a folder gives vectors as they were sent: not of unit length.
    with closing(QdrantClient(path=str(tmp_path / "whole"))) as client:
        source = stored(client, "docs")
        victim.moved(client)
        uninterrupted = stored(client, "mood")
    with closing(QdrantClient(path=str(killed / "collections" / "qdrant"))) as client:
        left = len(stored(client, "mood"))
        report = victim.moved(client)
        assert report.resumed and report.complete and 0 < left < POINTS and report.transformed < POINTS
        found = stored(client, "mood")
        assert stored(client, "docs") == source
        assert victim.moved(client).transformed == 0
    assert found.keys() == uninterrupted.keys() == source.keys()
    for point, (payload, vector) in found.items():
        assert payload == source[point][0]
        np.testing.assert_allclose(vector, uninterrupted[point][1], atol=1e-6)
