import gzip
import io
import itertools
import json
import sys

import numpy as np
import pytest
import torch
from fakes import WordEmbedding
from rich.console import Console
from typer.testing import CliRunner

from llama_index_instruct.cli import app
from llama_index_instruct.errors import ConfigurationError, MissingExtraError
from llama_index_instruct.evaluation import demo, gstransform_bench
from llama_index_instruct.evaluation.adapter import pair_by_label, train_linear_adapter
from llama_index_instruct.evaluation.collection_bench import bench_collection
from llama_index_instruct.evaluation.datasets import Ticket
from llama_index_instruct.evaluation.demo_gstransform import INSTRUCTIONS, run_gstransform_demo
from llama_index_instruct.evaluation.facets import Facet, FacetedCorpus, load_facets
from llama_index_instruct.evaluation.geometry import (
    clustering_nmi,
    draw_triplets,
    neighbour_precision,
    triplet_accuracy,
)
from llama_index_instruct.evaluation.gstransform_bench import (
    METHODS,
    Fitted,
    GSTransformBench,
    bench_gstransform,
)
from llama_index_instruct.evaluation.plots import Panel, save_scatter
from llama_index_instruct.rows import unit_rows

PNG = b"\x89PNG\r\n\x1a\n"
THINGS = ("printer", "router", "laptop", "phone")
MOODS = ("furious", "grateful", "calm", "worried")
FACETS = {"thing": {"instruction": "What is it about?"}, "mood": {"instruction": "How does the writer feel?"}}


def make_rows(copies=5):
    rows = []
    for number, (thing, mood, copy) in enumerate(itertools.product(THINGS, MOODS, range(copies))):
        fillers = " ".join(f"word{(5 * number + 3 * step + copy) % 31}" for step in range(3))
        rows.append({"_id": f"d{number}", "text": f"order {thing} {mood} {fillers}", "thing": thing, "mood": mood})
    return rows


def write_corpus(folder, rows=None, facets=None, *, compressed=False):
    folder.mkdir(parents=True)
    text = "\n".join(json.dumps(row) for row in (make_rows() if rows is None else rows)) + "\n"
    if compressed:
        (folder / f"{folder.name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    else:
        (folder / f"{folder.name}.jsonl").write_text(text)
    (folder / "facets.json").write_text(json.dumps(FACETS if facets is None else facets))
    return folder


def make_corpus(name="shop", copies=5):
    rows = make_rows(copies)
    facets = [Facet(facet, value["instruction"], np.array([r[facet] for r in rows])) for facet, value in FACETS.items()]
    return FacetedCorpus(name, [row["text"] for row in rows], facets)


def units(count, size, seed=0):
    return unit_rows(np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32))


def bench(*corpora, cache=None, **settings):
    return bench_gstransform(corpora, WordEmbedding(), GSTransformBench(**settings), cache=cache, progress=False)


def spied(monkeypatch, *names):
    seen = {}
    for name in names:

        def fit(split, name=name):
            seen.setdefault(name, []).append(split)
            return Fitted(split.others, split.others, 0.0)

        monkeypatch.setitem(METHODS, name, fit)
    return seen


@pytest.mark.parametrize("compressed", [False, True])
def test_facets_on_disk(tmp_path, compressed):
    rows = make_rows()
    rows[0]["mood"] = None
    del rows[1]["mood"]
    rows[2]["mood"] = 7
    corpus = load_facets(write_corpus(tmp_path / "shop", rows, compressed=compressed))
    assert corpus.name == "shop" and corpus.texts == [row["text"] for row in rows]
    assert [(f.name, f.instruction) for f in corpus.facets] == [(n, v["instruction"]) for n, v in FACETS.items()]
    thing, mood = corpus.facets
    assert thing.labels.tolist() == [row["thing"] for row in rows]
    assert mood.labels.tolist() == ["", "", "7", *(row["mood"] for row in rows[3:])]


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (lambda f: (f / "shop.jsonl").unlink(), r"shop: expected shop\.jsonl or shop\.jsonl\.gz"),
        (lambda f: (f / "shop.jsonl").write_text('{"_id": "a", "text": "b"}\n{"_id": "c"}\n'), "line 2: missing text"),
        (lambda f: (f / "shop.jsonl").write_text('{"text": "c"}\n'), r"shop\.jsonl, line 1: missing _id"),
        (lambda f: (f / "shop.jsonl").write_text("{broken\n"), "line 1: expected a JSON object"),
        (lambda f: (f / "shop.jsonl").write_text("\n[1]\n"), "line 2: expected a JSON object, found list"),
        (lambda f: (f / "shop.jsonl").write_text(""), "facet 'thing' has fewer than two labels"),
        (lambda f: (f / "facets.json").unlink(), r"expected facets\.json"),
        (lambda f: (f / "facets.json").write_text("{broken"), r"facets\.json: expected"),
        (lambda f: (f / "facets.json").write_text("[1]"), r"facets\.json: expected"),
        (lambda f: (f / "facets.json").write_text('{"mood": "How?"}'), r"facets\.json: expected"),
        (lambda f: (f / "facets.json").write_text('{"mood": {}}'), r"facets\.json: expected.*instruction"),
        (lambda f: (f / "facets.json").write_bytes(b"\xff\xfe"), r"facets\.json"),
        (lambda f: (f / "facets.json").write_text('{"none": {"instruction": "x"}}'), "facet 'none' has fewer than two"),
        (lambda f: (f / "facets.json").write_text('{"text0": {"instruction": "x"}}'), "facet 'text0'"),
    ],
)
def test_a_broken_corpus_is_named(tmp_path, breakage, words):
    folder = write_corpus(tmp_path / "shop")
    breakage(folder)
    with pytest.raises(ConfigurationError, match=words):
        load_facets(folder)


def test_one_label_is_no_facet(tmp_path):
    rows = [{**row, "thing": None if number % 2 else "printer"} for number, row in enumerate(make_rows())]
    with pytest.raises(ConfigurationError, match="shop: facet 'thing' has fewer than two labels"):
        load_facets(write_corpus(tmp_path / "shop", rows))


def test_compressed_facets_are_read_too(tmp_path):
    folder = write_corpus(tmp_path / "shop")
    (folder / "facets.json").unlink()
    (folder / "facets.json.gz").write_bytes(gzip.compress(json.dumps(FACETS).encode()))
    assert len(load_facets(folder).facets) == 2


def test_nmi_of_blobs_and_noise():
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(4), 30)
    blobs = (10 * np.eye(4)[codes] + 0.1 * rng.normal(size=(120, 4))).astype(np.float32)
    assert clustering_nmi(blobs, codes) == pytest.approx(1.0)
    assert clustering_nmi(blobs, 3 * ((codes + 1) % 4)) == pytest.approx(1.0)
    noise = rng.normal(size=(600, 4)).astype(np.float32)
    assert clustering_nmi(noise, rng.integers(3, size=600)) < 0.03


def test_triplets():
    codes = np.array([5] * 500 + [1] * 20 + [2] * 3 + [9])
    triplets = draw_triplets(codes, 4000, seed=3)
    assert triplets.shape == (4000, 3)
    anchor, same, other = triplets.T
    assert (codes[anchor] == codes[same]).all() and (anchor != same).all() and (codes[anchor] != codes[other]).all()
    np.testing.assert_array_equal(triplets, draw_triplets(codes, 4000, seed=3))
    assert (triplets != draw_triplets(codes, 4000, seed=4)).any()
    # Three classes can be an anchor; of the other three each is as likely, whatever its size.
    for code in (5, 1, 2):
        assert (codes[anchor] == code).mean() == pytest.approx(1 / 3, abs=0.03)
        for far in {5, 1, 2, 9} - {code}:
            assert (codes[other][codes[anchor] == code] == far).mean() == pytest.approx(1 / 3, abs=0.05)
    assert set(anchor[codes[anchor] == 2]) == {520, 521, 522}


def test_triplet_accuracy_by_loop():
    queries, documents = units(40, 6, 1), units(40, 6, 2)
    triplets = draw_triplets(np.arange(40) % 3, 300, seed=0)
    right = [queries[a] @ documents[p] > queries[a] @ documents[n] for a, p, n in triplets]
    assert triplet_accuracy(queries, documents, triplets) == pytest.approx(np.mean(right))


@pytest.mark.parametrize("block", [7, 1024])
def test_neighbour_precision_by_loop(monkeypatch, block):
    monkeypatch.setattr("llama_index_instruct.evaluation.geometry.BLOCK", block)
    queries, documents, codes = units(45, 6, 1), units(45, 6, 2), np.arange(45) % 4
    kept = queries.copy(), documents.copy()
    shares = []
    for row in range(45):
        order = sorted((i for i in range(45) if i != row), key=lambda i: -float(queries[row] @ documents[i]))
        shares.append(np.mean([codes[i] == codes[row] for i in order[:5]]))
    assert neighbour_precision(queries, documents, codes, 5) == pytest.approx(np.mean(shares))
    np.testing.assert_array_equal((queries, documents), kept)
    assert neighbour_precision(queries, documents, codes, 44) == pytest.approx(
        np.mean([(codes == c).sum() - 1 for c in codes]) / 44
    )


def test_unit_rows_keep_zeros():
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]], rtol=1e-6)


def test_the_adapter_by_hand():
    queries, documents = units(17, 6, 1), units(17, 6, 2)
    weight = torch.eye(6, dtype=torch.float64)
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    # Two batches of ten and seven; no step of warm-up; the rate falls in a line to zero.
    for step, (rows, rate) in enumerate(((slice(0, 10), 2e-5), (slice(10, 17), 1e-5)), start=1):
        weight.requires_grad_(True)
        q = torch.tensor(queries[rows], dtype=torch.float64) @ weight.T
        d = torch.tensor(documents[rows], dtype=torch.float64)
        logits = 20 * (q / q.norm(dim=1, keepdim=True)) @ (d / d.norm(dim=1, keepdim=True)).T
        loss = -(logits.diag() - logits.logsumexp(1)).mean()
        (gradient,) = torch.autograd.grad(loss, weight)
        gradient = gradient * min(1.0, 1.0 / (float(gradient.norm()) + 1e-6))
        weight = weight.detach() * (1 - rate * 0.01)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        weight = weight - rate * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    found = train_linear_adapter(queries, documents)
    assert found.shape == (6, 6) and found.dtype == np.float32
    np.testing.assert_allclose(found - np.eye(6), weight.numpy() - np.eye(6), atol=4e-7)
    assert np.abs(found - np.eye(6)).max() > 1e-5


def test_the_adapter_begins_at_identity_and_moves_little():
    queries = units(200, 8, 1)
    documents = unit_rows(queries + 0.3 * units(200, 8, 2))
    found = train_linear_adapter(queries, documents)
    np.testing.assert_array_equal(found, train_linear_adapter(queries, documents))
    assert 0 < np.abs(found - np.eye(8)).max() < 21 * 2e-5
    assert (np.sum(unit_rows(queries @ found.T) * queries, axis=1) > 0.9999).all()


def test_pairs_share_a_label():
    codes = np.array([0] * 7 + [4] * 2 + [1])
    partner = pair_by_label(codes, seed=0)
    np.testing.assert_array_equal(codes[partner], codes)
    assert (partner[:9] != np.arange(9)).all() and partner[9] == 9
    assert sorted(partner) == list(range(10))
    np.testing.assert_array_equal(partner, pair_by_label(codes, seed=0))
    assert (partner[:7] != pair_by_label(codes, seed=1)[:7]).any()


def test_the_record(tmp_path, monkeypatch):
    settings = GSTransformBench()
    model = WordEmbedding()
    record = bench_gstransform([make_corpus()], model, settings, cache=tmp_path / "cache", progress=False)
    assert set(record) == {"bench", "settings", "facets", "means"}
    assert record["bench"] == "gstransform"
    assert record["settings"] == {
        "labels": "gold",
        "sample": 3000,
        "flip": 0.0,
        "methods": tuple(METHODS),
        "seed": 0,
        "clusters": 50,
        "embed_model": "words",
    }
    assert list(record["facets"]) == ["shop/thing", "shop/mood"]
    for facet in record["facets"].values():
        assert set(facet) == {"sample", "texts", "methods", "p@100"}
        assert (facet["sample"], facet["texts"]) == (40, 40)
        assert list(facet["methods"]) == list(METHODS)
        for name, row in facet["methods"].items():
            assert list(row) == ["nmi", "triplet", "p@10", "fit_s"]
            assert all(0 <= row[measure] <= 100 for measure in ("nmi", "triplet", "p@10"))
            assert row["fit_s"] == 0 if name == "plain" else row["fit_s"] > 0
        plain, best = facet["methods"]["plain"], facet["methods"]["default"]
        assert all(best[measure] > plain[measure] for measure in ("nmi", "triplet", "p@10"))
        assert list(facet["p@100"]) == ["plain", "postprocessor", "retriever", "exact"]
    for name, means in record["means"].items():
        for measure, mean in means.items():
            values = [facet["methods"][name][measure] for facet in record["facets"].values()]
            assert mean == pytest.approx(np.mean(values), abs=6e-4)
    json.dumps(record)
    asked = model.calls
    seen = spied(monkeypatch, "spy")
    again = bench_gstransform(
        [make_corpus()], model, GSTransformBench(methods=("plain", "spy")), cache=tmp_path / "cache", progress=False
    )
    assert model.calls == asked
    for facet, split in zip(again["facets"].values(), seen["spy"], strict=True):
        assert "p@100" not in facet
        assert facet["methods"]["plain"]["nmi"] == pytest.approx(
            100 * clustering_nmi(split.others, split.codes), abs=0.01
        )
        precision = 100 * neighbour_precision(split.others, split.others, split.codes, 10)
        assert facet["methods"]["plain"]["p@10"] == pytest.approx(precision, abs=0.01)
    for name, facet in again["facets"].items():
        assert facet["methods"]["plain"] == record["facets"][name]["methods"]["plain"]


def test_searches_in_order_of_worth(monkeypatch):
    monkeypatch.setattr(gstransform_bench, "RESULTS", 5)
    record = bench(make_corpus(copies=10), methods=("default",))
    for facet in record["facets"].values():
        found = facet["p@5"]
        assert found["plain"] < found["postprocessor"] <= found["exact"] + 2
        assert found["plain"] < found["retriever"] <= found["exact"] + 2


def test_flips_are_the_same_for_every_method(tmp_path, monkeypatch):
    corpus = make_corpus(copies=20)
    seen = spied(monkeypatch, "a", "b")

    def splits(**settings):
        seen.clear()
        bench(corpus, cache=tmp_path, methods=("a", "b"), **settings)
        for left, right in zip(seen["a"], seen["b"], strict=True):
            np.testing.assert_array_equal(left.labels, right.labels)
            np.testing.assert_array_equal(left.sample, right.sample)
        return seen["a"]

    gold = splits()
    for flip in (0.2, 0.7, 1.0):
        for split, true in zip(splits(flip=flip), gold, strict=True):
            np.testing.assert_array_equal(split.sample, true.sample)
            np.testing.assert_array_equal(split.codes, true.codes)
            assert (split.labels != true.labels).mean() == pytest.approx(flip, abs=0.1)
            assert set(split.labels) <= set(true.labels)
    for split, same in zip(splits(flip=0.5, seed=4), splits(flip=0.5, seed=4), strict=True):
        np.testing.assert_array_equal(split.labels, same.labels)


def test_no_flip_leaves_the_labels(monkeypatch):
    corpus = make_corpus()
    seen = spied(monkeypatch, "a")
    bench(corpus, methods=("a",), flip=0.0)
    vectors = WordEmbedding().get_text_embedding_batch(corpus.texts)
    for split, facet in zip(seen["a"], corpus.facets, strict=True):
        names = sorted(set(facet.labels.tolist()))
        for rows, codes in ((split.sample, split.labels), (split.others, split.codes)):
            places = np.argmax(rows @ np.array(vectors).T, axis=1)
            assert [names[code] for code in codes] == facet.labels[places].tolist()
        together = np.vstack([split.sample, split.others])
        assert len(np.unique(together.round(5), axis=0)) == len(np.unique(np.array(vectors).round(5), axis=0))


def test_small_facets_give_half_and_unlabelled_texts_take_no_part(monkeypatch):
    corpus = make_corpus()
    corpus.facets[1].labels[:11] = ""
    seen = spied(monkeypatch, "a")
    record = bench(corpus, methods=("a",), sample=10)
    sizes = [(facet["sample"], facet["texts"]) for facet in record["facets"].values()]
    assert sizes == [(40, 40), (34, 35)] == [(len(s.labels), len(s.codes)) for s in seen["a"]]
    monkeypatch.setattr(gstransform_bench, "SMALL", 60)
    sizes = [(f["sample"], f["texts"]) for f in bench(corpus, methods=("a",), sample=20)["facets"].values()]
    assert sizes == [(20, 60), (20, 49)]


@pytest.mark.parametrize(
    "settings",
    [
        {"methods": ("magic",)},
        {"methods": ("plain", "magic")},
        {"labels": "silver"},
        {"flip": -0.1},
        {"flip": 1.1},
        {"flip": float("nan")},
        {"sample": 9},
    ],
)
def test_wrong_settings_are_named(settings):
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        GSTransformBench(**settings)


def test_two_folders_of_one_name_are_refused():
    with pytest.raises(ConfigurationError, match="different names"):
        bench(make_corpus(), make_corpus(), methods=("plain",))


def test_a_corpus_too_small_to_score_is_an_error():
    corpus = make_corpus()
    few = FacetedCorpus("few", corpus.texts[:16], [Facet("mood", "How?", corpus.facets[1].labels[:16])])
    with pytest.raises(ConfigurationError, match="few/mood"):
        bench(few, methods=("plain",))


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr("llama_index_instruct.models.load_embed_model", lambda name: WordEmbedding())
    folder, output = write_corpus(tmp_path / "shop"), tmp_path / "out" / "record.json"
    other = write_corpus(tmp_path / "market", compressed=True)
    arguments = ["bench", "gstransform", "--data", str(folder), "--data", str(other), "--output", str(output)]
    result = CliRunner().invoke(app, [*arguments, "--methods", "plain, default", "--cache", str(tmp_path / "cache")])
    assert result.exit_code == 0, result.output
    record = json.loads(output.read_text())
    assert list(record["facets"]) == ["shop/thing", "shop/mood", "market/thing", "market/mood"]
    assert list(record["means"]) == ["plain", "default"]
    assert "shop/mood" in result.output and "mean" in result.output and "precision at 100" in result.output
    assert list((tmp_path / "cache").glob("*.npy"))
    for wrong in (["--methods", "magic"], ["--labels", "silver"], ["--flip", "2"], ["--data", str(tmp_path / "none")]):
        result = CliRunner().invoke(app, [*arguments, *wrong])
        assert result.exit_code == 2 and isinstance(result.exception, SystemExit), wrong
        assert "ConfigurationError" in result.output and "Traceback" not in result.output


def panels(count=2):
    points, labels = units(40, 2), [f"name {number % 12}" for number in range(40)]
    return [Panel(f"panel {number}", points, labels) for number in range(count)]


@pytest.mark.parametrize("count", [1, 2])
def test_a_picture(tmp_path, count):
    path = tmp_path / "new" / "picture.png"
    save_scatter(panels(count), panels(count), path, heading="before and after")
    assert path.read_bytes().startswith(PNG)


def without_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    without_matplotlib(monkeypatch)
    with pytest.raises(MissingExtraError, match=r"pip install 'llama-index-instruct\[bench\]'") as caught:
        save_scatter(panels(), panels(), tmp_path / "picture.png", heading="x")
    assert caught.value.extra == "bench"


def test_the_second_part_of_the_demo(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "load_embed_model", lambda name: WordEmbedding())
    tickets = [
        Ticket(f"t{n}", row["text"], {"product": row["thing"], "issue": row["mood"], "request": row["mood"]})
        for n, row in enumerate(make_rows())
    ]
    console, picture = Console(file=io.StringIO(), width=160), tmp_path / "out" / "demo.png"
    index = demo.ticket_index(tickets)
    summary = run_gstransform_demo(console, index, tickets, llm=None, picture=picture)
    said = " ".join(console.file.getvalue().split())
    assert set(summary) == {"nmi_before", "nmi_after", "p10_before", "p10_after"}
    assert summary["nmi_after"] > summary["nmi_before"] and summary["p10_after"] > summary["p10_before"]
    assert all(0 <= value <= 100 for value in summary.values())
    assert "fitted on 40 labelled messages" in said and "the corpus's own" in said and picture.name in said
    assert all(instruction in said for instruction in INSTRUCTIONS.values())
    assert "plainly" in said and all(f"by {facet}" in said for facet in INSTRUCTIONS)
    assert picture.read_bytes().startswith(PNG)
    index.vector_store.client.close()


def test_the_rate_of_a_collection(tmp_path):
    record = bench_collection(points=300, dimension=8, rounds=2)
    assert set(record) == {"bench", "settings", "stream", "product"}
    assert record["bench"] == "collection"
    assert record["settings"] == {"points": 300, "dimension": 8, "rounds": 2}
    for name in ("stream", "product"):
        assert set(record[name]) == {"median", "lowest", "highest"}
        assert 0 < record[name]["lowest"] <= record[name]["median"] <= record[name]["highest"]
    output = tmp_path / "record.json"
    arguments = ["--points", "300", "--dimension", "8", "--rounds", "1", "--output", str(output)]
    result = CliRunner().invoke(app, ["bench", "collection", *arguments])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == json.loads(output.read_text())
    assert json.loads(output.read_text())["settings"] == {"points": 300, "dimension": 8, "rounds": 1}
