"""The command line: ``llama-index-instruct demo | fit | transform | mine | train | bench``."""

from __future__ import annotations

import typer

from llama_index_instruct.cli.bench import bench_app
from llama_index_instruct.cli.demo import demo
from llama_index_instruct.cli.gstransform import fit, transform
from llama_index_instruct.cli.mine import mine
from llama_index_instruct.cli.train import train_app

app = typer.Typer(
    help="Retrieval that follows instructions, for LlamaIndex and Qdrant.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(fit)
app.command()(transform)
app.command()(mine)
app.add_typer(train_app, name="train")
app.add_typer(bench_app, name="bench")

__all__ = ["app"]
