"""What the README and the examples tell people to paste and run."""

import re
import runpy
import sys
import warnings
from pathlib import Path

import pytest
from fakes import ScriptedLLM, WordEmbedding
from gstransform.labelling import LabellingLLM
from incontext.decoders import save as save_decoder
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.schema import TextNode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from messages import index_over, make_nodes
from typer.testing import CliRunner

from llama_index_instruct.cli import app
from llama_index_instruct.evaluation.datasets import load_tickets

pytestmark = [
    pytest.mark.usefixtures("texts_encoded_once"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
]
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in sorted((ROOT / ".docs" / "pages").glob("*.md"))}


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


class WarrantyJudge:
    """Stands for a cross-encoder: it knows what a warranty is."""

    def __init__(self, name):
        self.name = name

    def predict(self, pairs, show_progress_bar):
        return [0.9 if "warranty" in passage else 0.1 for _, passage in pairs]


@pytest.mark.timeout(120)
def test_the_snippets_run_as_pasted(memory_client, monkeypatch, capsys, tmp_path):
    index_over(QdrantVectorStore(collection_name="tickets", client=memory_client))
    llm = ScriptedLLM(rule=lambda p: 0.9 if "furious" in p else 0.1)
    monkeypatch.setattr("qdrant_client.QdrantClient", lambda url: memory_client)
    monkeypatch.setattr("llama_index.llms.openai.OpenAI", lambda model: llm)
    monkeypatch.setattr("llama_index.embeddings.huggingface.HuggingFaceEmbedding", lambda name: WordEmbedding())
    refinement, gstransform, inbedder, incontext, mining = blocks("python")
    assert len([line for line in refinement.splitlines() if line.strip()]) <= 13
    app: dict = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Payload indexes have no effect")
        exec(compile(refinement, "README.md", "exec"), app)
    assert len(capsys.readouterr().out.splitlines()) == 10 and len(llm.prompts) == 20
    labeller = LabellingLLM()
    app["OpenAI"] = lambda model: labeller
    monkeypatch.chdir(tmp_path)
    exec(compile(gstransform, "README.md", "exec"), app)
    assert "90 of 90 texts labelled (llm) into 3 categories" in capsys.readouterr().out
    assert len(app["hits"]) == 10 and app["engine"] is not None and (tmp_path / "wrong" / "config.json").is_file()
    app["nodes"] = [TextNode(text=text) for text in ("It works, I am so happy!", "Furious about the broken laptop.")]
    exec(compile(inbedder, "README.md", "exec"), app)
    assert "laptop" in capsys.readouterr().out and app["by_feeling"].output_dimension > 0
    save_decoder("llama", tmp_path / "my-decoder")
    app["nodes"] = make_nodes()[:12]
    exec(compile(incontext, "README.md", "exec"), app)
    assert app["other"].task != app["embedding"].task
    monkeypatch.setattr("sentence_transformers.CrossEncoder", WarrantyJudge)
    exec(compile(mining, "README.md", "exec"), app)
    assert len(app["mined"].rows) == 1 and (tmp_path / "my-embedder" / "README.md").is_file()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "name",
    [
        "refine_tickets",
        "gstransform_tickets",
        "inbedder_tickets",
        "incontext_tickets",
        "mine_tickets",
        "rerank_as_judge",
        "rag_query_engine",
        "trace_on_console",
    ],
)
def test_examples_run_offline(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    for handlers in ("span_handlers", "event_handlers"):
        # What an example adds to LlamaIndex's tracing goes with it.
        monkeypatch.setattr(get_dispatcher(), handlers, [*getattr(get_dispatcher(), handlers)])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert re.search("refined|retriever|GSTransform|adaptive margin|reused", capsys.readouterr().out)
    assert name in (ROOT / "examples" / "README.md").read_text(encoding="utf-8")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("name", "calls"),
    [("refine_tickets", 20), ("inbedder_tickets", 120), ("mine_tickets", 150), ("rerank_as_judge", 2)],
)
def test_examples_ask_the_llm_they_are_given(name, calls, fake_openai, monkeypatch, capsys):
    tickets, queries = load_tickets(ROOT / "examples" / "data")
    few = sorted(queries, key=lambda query: "cannot sign in" not in query.text)[:6]
    monkeypatch.setattr("llama_index_instruct.evaluation.datasets.load_tickets", lambda folder: (tickets, few))
    monkeypatch.setattr("fakes.quoted_passage", str)
    fake_openai.rule = lambda prompt: 0.9 if "notebook" in prompt else 0.1
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--llm", "m", "--llm-base", fake_openai.url])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert len(fake_openai.requests) >= calls and "No --llm given" not in capsys.readouterr().out


def test_labels_are_made_by_the_llm_that_is_given(monkeypatch, capsys, tmp_path):
    def by_length(kind, text):
        if kind == "name_cluster":
            return f"Category: {text.splitlines()[0]}"
        word = {"summarise": "Summary", "classify": "Classification", "classify_again": "Classification"}[kind]
        return f"{word}: {'parcel late' if len(text) % 2 else 'device broken'}"

    labeller = LabellingLLM(rule=by_length)
    monkeypatch.chdir(tmp_path)  # where the answers are kept
    monkeypatch.setattr("llama_index_instruct.cli.options.openai_like", lambda model, base: labeller)
    monkeypatch.setattr(sys, "argv", ["gstransform_tickets.py", "--llm", "m"])
    runpy.run_path(str(ROOT / "examples" / "gstransform_tickets.py"), run_name="__main__")
    assert "200 of 200 texts labelled (llm)" in capsys.readouterr().out and (tmp_path / "issue.answers").is_dir()


def test_the_query_engine_asks_the_llm_it_is_given(fake_openai, monkeypatch, capsys):
    monkeypatch.setattr("llama_index_instruct.evaluation.demo.load_embed_model", lambda name: WordEmbedding())
    monkeypatch.setattr("fakes.quoted_passage", str)  # the prompt that asks for the answer quotes nothing
    fake_openai.rule = lambda prompt: 0.1 if "Answer yes or no" in prompt and "invoice" not in prompt else 0.9
    monkeypatch.setattr(sys, "argv", ["rag_query_engine.py", "--llm", "m", "--llm-base", fake_openai.url])
    runpy.run_path(str(ROOT / "examples" / "rag_query_engine.py"), run_name="__main__")
    assert [line.split(":")[1] for line in capsys.readouterr().out.splitlines() if "Yes" in line] == [" Yes"] * 3
    prompts = [request["messages"][-1]["content"] for request in fake_openai.requests]
    assert sum("Answer yes or no" in prompt for prompt in prompts) == 40 and len(prompts) == 43


@pytest.mark.parametrize("text", [README, PAGES["measurements"]], ids=["README", "measurements"])
def test_every_command_and_option_exists(text):
    commands = re.findall(r"llama-index-instruct bench [a-z]+ --[^\n`]+", text)
    assert commands
    for command in commands:
        name = re.search(r"bench (\w+)", command).group(1)
        known = CliRunner().invoke(app, ["bench", name, "--help"], env={"COLUMNS": "200"}).output
        for option in re.findall(r"(--[a-z-]+)", command):
            assert option in known, command


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make (\w+)", "\n".join(blocks("bash")), re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_public_name_has_one_place_in_the_reference():
    import llama_index_instruct

    pages = "\n".join(PAGES.values())
    assert sorted(re.findall(r"^::: llama_index_instruct\.(\w+)$", pages, re.MULTILINE)) == llama_index_instruct.__all__


def test_pages_and_files_that_are_named_exist():
    for text in (README, *PAGES.values()):
        for name in re.findall(r"`((?:\.docs|examples|tests|llama_index_instruct)/[\w./-]+)`", text):
            assert (ROOT / name).exists(), name


def test_the_changelog_knows_the_version():
    import llama_index_instruct

    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE).group(1)
    assert version == llama_index_instruct.__version__
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
