"""A whole RAG query engine over stored messages: an instruction and a judge find the sources, an LLM answers from them.

Run: .venv/bin/python examples/rag_query_engine.py [--llm MODEL --llm-base URL]; the key is read from OPENAI_API_KEY.
"""

import argparse
from pathlib import Path
from typing import Any

from llama_index.core.base.llms.types import CompletionResponse, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_instruct import (
    GSTransformRetriever,
    MetadataLabels,
    RefinementRetriever,
    RelevanceJudge,
    fit_gstransform,
)
from llama_index_instruct.cli.options import openai_like
from llama_index_instruct.evaluation.datasets import load_tickets
from llama_index_instruct.evaluation.demo import ticket_index


class LabelLLM(CustomLLM):
    """Stands in for an LLM: knows which messages fit the query, says so of one, and counts them in several."""

    fitting: list[str]

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="labels", context_window=32_000)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        shown = sum(text in prompt for text in self.fitting)
        if "Answer yes or no" in prompt:
            return CompletionResponse(text="yes" if shown else "no")
        return CompletionResponse(text=f"{shown} of the messages before me fit.")

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError("nothing here is streamed")


class Best(BaseNodePostprocessor):
    """The first few: candidates are many, sources are few."""

    count: int

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return nodes[: self.count]


parser = argparse.ArgumentParser()
parser.add_argument("--llm")
parser.add_argument("--llm-base")
options = parser.parse_args()

tickets, queries = load_tickets(Path(__file__).parent / "data")
query = next(query for query in queries if "billing mistake" in query.text)
index = ticket_index(tickets)
store, embed_model = index.vector_store, index._embed_model

llm = openai_like(options.llm, options.llm_base)
if llm is None:
    print("No --llm given: a script that knows the corpus's labels judges the messages and writes the answers.\n")
    llm = LabelLLM(fitting=[ticket.text for ticket in tickets if ticket.id in query.relevant])

# Once per instruction, from labels that are there anyway: stored vectors alike in what went wrong come to lie together.
transform = fit_gstransform(
    index, instruction="What went wrong?", labels=MetadataLabels("issue"), embed_model=embed_model, sample=200
)
judge = RelevanceJudge(llm, task="the message fulfils every part of the request")
plain = index.as_retriever(similarity_top_k=100)
retrievers = {
    "plain": plain,
    "refined": RefinementRetriever(plain, judge=judge, judge_deadline=60.0),
    "refined under the instruction": RefinementRetriever(
        GSTransformRetriever(plain, transform=transform),
        judge=judge,
        judge_deadline=60.0,
        vector_store=store,
        embed_model=embed_model,
    ),
}

print(query.text)
for name, retriever in retrievers.items():
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, node_postprocessors=[Best(count=6)])
    response = engine.query(query.text)
    print(f"\n{name}: {response}")
    for hit in response.source_nodes:
        mark = "+" if hit.node.metadata["ticket"] in query.relevant else "-"
        print(f"  {mark} {hit.score:.3f} {' '.join(hit.node.get_content().split())[:90]}")
