"""Retrieval sets -> sentence-transformers' evaluators, with queries written as in-context embeddings read them."""

from __future__ import annotations

from collections.abc import Sequence

from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.evaluation.datasets import RetrievalSet
from llama_index_instruct.incontext.template import Example, find_template


def retrieval_evaluator(
    data: RetrievalSet, template: str, task: str, examples: Sequence[Example] = ()
) -> InformationRetrievalEvaluator:
    """Return an evaluator for ``train_incontext``; its figures stand in the log and on the model card.

    Args:
        data: Queries and documents, all of them searched.
        template: How a query is written down.
        task: For queries without an instruction of their own.
        examples: Shown with every query.

    Raises:
        ConfigurationError: If each query has its own pool, which the evaluator does not know.
    """
    if data.pools is not None:
        raise ConfigurationError(f"{data.name}: expected a set without candidates.tsv, as all documents are searched")
    written = find_template(template)
    return InformationRetrievalEvaluator(
        queries={
            query.id: written.head(query.instruction or task, examples)
            + query.text
            + written.tail(query.instruction or task)
            for query in data.queries
        },
        corpus=dict(zip(data.document_ids, data.documents, strict=True)),
        relevant_docs={
            query.id: {data.document_ids[row] for row in rows.tolist()}
            for query, rows in zip(data.queries, data.relevant, strict=True)
        },
        name=f"{data.name}, {len(examples)} examples" if examples else data.name,
        show_progress_bar=False,
    )
