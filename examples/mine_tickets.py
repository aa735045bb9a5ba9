"""Hard negatives for training: of 32 queries only one answer each is known, the others are hidden among the candidates.

Run: .venv/bin/python examples/mine_tickets.py [--llm MODEL --llm-base URL] [--train FOLDER]; the key is OPENAI_API_KEY.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from llama_index_instruct import (
    InContextTrainingSettings,
    MinedRow,
    MiningSettings,
    RelevanceJudge,
    TrainingSet,
    mine_hard_negatives,
    train_incontext,
)
from llama_index_instruct.cli.options import openai_like
from llama_index_instruct.evaluation.datasets import load_tickets
from llama_index_instruct.models import load_embed_model

parser = argparse.ArgumentParser()
parser.add_argument("--llm")
parser.add_argument("--llm-base")
parser.add_argument("--train", help="folder of a model to train on the rows, about a minute")
options = parser.parse_args()

tickets, queries = load_tickets(Path(__file__).parent / "data")
text_of = {ticket.id: ticket.text for ticket in tickets}
answers = {query.text: {text_of[id_] for id_ in query.relevant} for query in queries}
pairs = [(query, min(texts)) for query, texts in answers.items()]


def labels(query: str, passages: list[str]) -> list[float]:
    """Stands for a cross-encoder or an LLM: it knows which tickets answer."""
    return [0.9 if passage in answers[query] else 0.1 for passage in passages]


if llm := openai_like(options.llm, options.llm_base):
    teacher = RelevanceJudge(llm, task="the message fulfils every part of the request")
else:
    print("No --llm given: the corpus's own labels answer for the teacher.\n")
    teacher = labels

embed_model = load_embed_model("minilm")
settings = MiningSettings(lexical=30, dense=30, num_negatives=4)


def hidden(rows: Sequence[MinedRow]) -> str:
    """Return how many of the negatives are answers in truth."""
    wrong = sum(negative in answers[row.query] for row in rows for negative in row.negatives)
    return f"{wrong} of {sum(len(row.negatives) for row in rows)} negatives are answers"


naive = mine_hard_negatives(pairs, list(text_of.values()), embed_model=embed_model, rule="topk", settings=settings)
mined = mine_hard_negatives(pairs, list(text_of.values()), embed_model=embed_model, teacher=teacher, settings=settings)
print(f"nearest candidates as they are: {hidden(naive.rows)}")
print(f"adaptive margin, with a teacher: {hidden(mined.rows)}")
print(f"removed: {dict(mined.report.removed)} of {mined.report.candidates} candidates")
for shown in mined.report.shown[:3]:
    print(f"  {shown.query} | {' '.join(shown.candidate.split())[:80]}")

if options.train:
    folder = train_incontext(
        [TrainingSet("tickets", mined.rows, notes="examples/data, MIT")],
        "minilm",
        options.train,
        settings=InContextTrainingSettings(template="bare", lora_rank=0, learning_rate=5e-5, batch_size=8, epochs=3),
    )
    print(f"trained: {folder}, for SentenceTransformer or HuggingFaceEmbedding")
