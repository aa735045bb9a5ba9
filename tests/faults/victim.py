"""A process of its own that kills its children: what takes long to import is imported once, and each kill costs a fork.

A child reports progress through a pipe, one byte a step, and is killed with SIGKILL while it goes on: at any moment after the
step that was drawn. A few steps later it waits for that, so that no machine is too slow to kill it in time.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fakes import WordEmbedding
from gstransform.labelling import LabellingLLM
from messages import make_nodes
from qdrant_client import QdrantClient
from qdrant_client.local.persistence import CollectionPersistence

from llama_index_instruct.gstransform.collection import transform_collection
from llama_index_instruct.gstransform.pipeline import fit_gstransform
from llama_index_instruct.gstransform.transform import GSTransform

KILLS = 4
WORKERS = 4
# Steps that a child may make after the one that was drawn.
GRACE = 5
SEED = 7

Step = Callable[[], None]


def killed(work: Callable[[Step], None], steps: int, pause: float = 0.0) -> None:
    """Fork a child, and kill it some time after so many steps of its work, and a pause."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        made = itertools.count(1)

        def step() -> None:
            os.write(writing, b".")
            if next(made) > steps + GRACE:
                time.sleep(600)

        work(step)
        os._exit(1)
    os.close(writing)
    for _ in range(steps):
        os.read(reading, 1)
    time.sleep(pause)
    os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(reading)
    assert code == -signal.SIGKILL, f"ended by itself: {code}"


class PayingLLM(LabellingLLM):
    """Enters every call in a ledger before it answers."""

    ledger: Path
    step: Step

    def _answer(self, call):
        with self.ledger.open("a") as ledger:
            ledger.write(call.kind + "\x1f" + " ".join(call.key[1].split()) + "\n")
        self.step()
        return super()._answer(call)


def carrying():
    embed = WordEmbedding()
    return [node.model_copy(update={"embedding": embed.get_text_embedding(node.text)}) for node in make_nodes()]


def fit(folder: Path, llm: LabellingLLM) -> GSTransform:
    return fit_gstransform(
        carrying(),
        instruction="How does the writer feel?",
        llm=llm,
        embed_model=WordEmbedding(),
        clusters=9,
        workers=WORKERS,
        checkpoint=folder / "checkpoint",
    )


def misbehaving(**fields) -> dict:
    return {"refusing": 0.05, "inventing": 0.1, **fields}


def kill_fits(folder: Path, chance: random.Random) -> None:
    """Each goes on where the one before was killed; their number of calls adds up to less than all."""
    for _ in range(KILLS):
        killed(
            lambda step: fit(folder, PayingLLM(ledger=folder / "ledger", step=step, **misbehaving())),
            chance.randint(5, 40),
        )


def fitted(seed: int, d: int = 256) -> GSTransform:
    vectors = np.random.default_rng(seed).normal(size=(60, d))
    return GSTransform.from_labels(vectors, [bool(v) for v in vectors[:, 0] > 0], instruction=f"number {seed}")


def kill_saves(folder: Path, chance: random.Random) -> None:
    """Two transforms are saved in turn, in one place; what each kill leaves is copied."""
    transforms = fitted(0), fitted(1)
    start = time.perf_counter()
    transforms[0].save_pretrained(folder / "saved")
    one_save = time.perf_counter() - start

    def work(step: Step) -> None:
        for transform in itertools.cycle(transforms):
            step()
            transform.save_pretrained(folder / "saved")

    for kill in range(KILLS):
        killed(work, chance.randint(1, 4), pause=one_save * chance.random())
        shutil.copytree(folder / "saved", folder / f"left by kill {kill}")


def without_fsync() -> None:
    """A killed process loses nothing by it."""
    ensure = CollectionPersistence._ensure_table

    def unsynchronised(storage: CollectionPersistence) -> None:
        storage.storage.execute("PRAGMA synchronous = OFF")
        ensure(storage)

    CollectionPersistence._ensure_table = unsynchronised


def moved(client: QdrantClient, target: str = "mood"):
    return transform_collection(client, "docs", target, fitted(2, d=8), page=10, batch=5, progress=False)


def kill_collections(folder: Path, chance: random.Random) -> None:
    """Each takes up what the one before left."""
    without_fsync()

    def work(step: Step) -> None:
        client = QdrantClient(path=str(folder / "qdrant"))
        persist = CollectionPersistence.persist

        def stepping(storage: CollectionPersistence, point) -> None:
            step()
            persist(storage, point)

        CollectionPersistence.persist = stepping
        moved(client)

    for _ in range(KILLS):
        killed(work, chance.randint(1, 25))


if __name__ == "__main__":
    parent = Path(sys.argv[1])
    for name, scenario in (("fits", kill_fits), ("saves", kill_saves), ("collections", kill_collections)):
        scenario(parent / name, random.Random(SEED))
