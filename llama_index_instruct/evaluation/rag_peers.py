"""What a LlamaIndex user would really pick, behind one call: the number of a query in, hits out.

Every peer searches the same collection in the same in-process Qdrant through LlamaIndex's own classes, and those that ask an
LLM ask the same one about the same number of passages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.postprocessor import LLMRerank, SentenceTransformerRerank, StructuredLLMRerank
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts.default_prompts import STRUCTURED_CHOICE_SELECT_PROMPT
from llama_index.core.retrievers import TransformRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.embeddings.huggingface import HuggingFaceEmbedding

from llama_index_instruct.evaluation.adapter import train_linear_adapter
from llama_index_instruct.evaluation.gold_llm import GoldLLM
from llama_index_instruct.evaluation.indexed import DEPTH, IndexedSet
from llama_index_instruct.evaluation.peers import QDRANT_DOCUMENTED, Task, kl_reference
from llama_index_instruct.refinement.retriever import RefinementRetriever
from llama_index_instruct.teacher.judge import RelevanceJudge
from llama_index_instruct.vectors import stored_vectors

Retrieve = Callable[[int], list[NodeWithScore]]
# Written before the queries by the peer that follows instructions by a prefix.
QUERY_INSTRUCTION = "Represent this request for finding the passages that satisfy it: "


@dataclass(frozen=True, eq=False)
class PeerInput:
    """What all peers are given.

    Attributes:
        indexed: The collection and its queries.
        llm: Asked by those that ask.
        judged: Passages judged per query.
        cross_encoder: Folder or name of a reranking model; None = none is at hand.
        seed: Of the pairs the adapter is trained on.
    """

    indexed: IndexedSet
    llm: GoldLLM
    judged: int = 20
    cross_encoder: str | None = None
    seed: int = 0

    def text(self, q: int) -> str:
        """Return what is searched for."""
        return self.indexed.data.queries[q].embedded_text

    def vector(self, q: int) -> npt.NDArray[np.float32]:
        """Return the query's vector, encoded now, shape (d,)."""
        return np.array(self.indexed.embed_model.get_query_embedding(self.text(q)), dtype=np.float32)

    def search(self, q: int, vector: npt.ArrayLike) -> list[NodeWithScore]:
        """Return the hits of a vector (d,) in the query's place."""
        bundle = QueryBundle(self.text(q), embedding=np.asarray(vector).tolist())
        return self.indexed.retriever(q).retrieve(bundle)


@dataclass(frozen=True)
class LeftOut:
    """Why a peer cannot run here."""

    reason: str


def plain(given: PeerInput) -> Retrieve:
    """Similarity search as it is."""
    return lambda q: given.indexed.retriever(q).retrieve(given.text(q))


def hyde(given: PeerInput) -> Retrieve:
    """``HyDEQueryTransform``: a passage is written, and searched for together with the query."""
    written = HyDEQueryTransform(llm=given.llm)
    return lambda q: TransformRetriever(given.indexed.retriever(q), written).retrieve(given.text(q))


def llm_rerank(given: PeerInput) -> Retrieve:
    """``LLMRerank`` on the first hits."""
    return _reranking(given, LLMRerank(llm=given.llm, top_n=given.judged))


def structured_llm_rerank(given: PeerInput) -> Retrieve:
    """``StructuredLLMRerank`` on the first hits."""
    # It writes into the prompt it is given, which is LlamaIndex's own one unless told otherwise.
    prompt = STRUCTURED_CHOICE_SELECT_PROMPT.model_copy()
    return _reranking(given, StructuredLLMRerank(llm=given.llm, choice_select_prompt=prompt, top_n=given.judged))


def cross_encoder(given: PeerInput) -> Retrieve | LeftOut:
    """``SentenceTransformerRerank`` on the first hits."""
    if given.cross_encoder is None:
        return LeftOut("no reranking model is at hand; give one with --cross-encoder")
    model = SentenceTransformerRerank(model=given.cross_encoder, top_n=given.judged, trust_remote_code=False)
    return _reranking(given, model)


def qdrant_feedback(given: PeerInput) -> Retrieve:
    """Qdrant's ``RelevanceFeedbackQuery`` at the weights of its documentation, by the client: LlamaIndex has no door to it."""
    from qdrant_client import models

    judge = RelevanceJudge(given.llm)
    store = given.indexed.store
    a, b, c = QDRANT_DOCUMENTED
    strategy = models.NaiveFeedbackStrategy(naive=models.NaiveFeedbackStrategyParams(a=a, b=b, c=c))

    def retrieve(q: int) -> list[NodeWithScore]:
        query = given.vector(q)
        nodes = [hit.node for hit in given.search(q, query)[: given.judged]]
        relevance = judge.assess(given.text(q), nodes).relevance
        judged = [
            models.FeedbackItem(example=vector.tolist(), score=float(score))
            for vector, score in zip(stored_vectors(nodes, store), relevance, strict=True)
        ]
        wanted = models.RelevanceFeedbackInput(target=query.tolist(), feedback=judged, strategy=strategy)
        points = given.indexed.client.query_points(
            store.collection_name,
            query=models.RelevanceFeedbackQuery(relevance_feedback=wanted),
            query_filter=given.indexed.only_pool(q),
            limit=DEPTH,
        ).points
        found = store.parse_to_query_result(points)
        return [
            NodeWithScore(node=node, score=score)
            for node, score in zip(found.nodes or [], found.similarities or [], strict=True)
        ]

    return retrieve


def released_loop(given: PeerInput) -> Retrieve:
    """The released refinement loop, see ``peers.kl_reference``; its vector is searched with."""
    judge = RelevanceJudge(given.llm)

    def retrieve(q: int) -> list[NodeWithScore]:
        query = given.vector(q)
        nodes = [hit.node for hit in given.search(q, query)[: given.judged]]
        relevance = judge.assess(given.text(q), nodes).relevance
        passages = stored_vectors(nodes, given.indexed.store)
        moved = kl_reference(Task(query, passages, lambda rows: relevance[rows], len(nodes), 1)).vector
        assert moved is not None
        return given.search(q, moved)

    return retrieve


def linear_adapter(given: PeerInput) -> Retrieve | LeftOut:
    """LlamaIndex's linear adapter, see ``adapter``; trained on the other half of the queries with their relevant documents."""
    queries = len(given.indexed.data.queries)
    if queries < 4:
        return LeftOut("too few queries to train it on some and score it on others")
    adapters = [_trained_adapter(given, [q for q in range(queries) if q % 2 != half]) for half in (0, 1)]
    return lambda q: given.search(q, adapters[q % 2] @ given.vector(q))


def instruction_prefix(given: PeerInput) -> Retrieve | LeftOut:
    """``HuggingFaceEmbedding(query_instruction=...)`` over the documents as they are stored."""
    if not isinstance(given.indexed.embed_model, HuggingFaceEmbedding):
        return LeftOut("the embedding model is not a HuggingFaceEmbedding")
    model = HuggingFaceEmbedding(given.indexed.embed_model.model_name, query_instruction=QUERY_INSTRUCTION)
    return lambda q: given.indexed.retriever(q, embed_model=model).retrieve(given.text(q))


def refinement(given: PeerInput, *, pin_judged: bool = False, trusted_judge: bool = False) -> Retrieve:
    """``RefinementRetriever``, as it comes; only its deadline is lifted, so that a busy machine changes no ranking."""

    def retrieve(q: int) -> list[NodeWithScore]:
        retriever = RefinementRetriever(
            given.indexed.retriever(q),
            llm=given.llm,
            judged=given.judged,
            judge_deadline=None,
            pin_judged=pin_judged,
            trusted_judge=trusted_judge,
        )
        return retriever.retrieve(given.text(q))

    return retrieve


RAG_PEERS: dict[str, Callable[[PeerInput], Retrieve | LeftOut]] = {
    "plain": plain,
    "HuggingFaceEmbedding, query_instruction": instruction_prefix,
    "linear adapter": linear_adapter,
    "HyDE (upper bound)": hyde,
    "cross-encoder": cross_encoder,
    "LLMRerank": llm_rerank,
    "StructuredLLMRerank": structured_llm_rerank,
    "Qdrant feedback query": qdrant_feedback,
    "released refinement loop": released_loop,
    "RefinementRetriever": refinement,
    "RefinementRetriever, trusted_judge": partial(refinement, trusted_judge=True),
    "RefinementRetriever, pin_judged": partial(refinement, pin_judged=True),
}


def _reranking(given: PeerInput, reranker: BaseNodePostprocessor) -> Retrieve:
    """Return a peer that puts what the reranker keeps first, and everything else behind it in its old order."""

    def retrieve(q: int) -> list[NodeWithScore]:
        hits = given.indexed.retriever(q).retrieve(given.text(q))
        # Copies: some rerankers write their scores into what they are given.
        first = [NodeWithScore(node=hit.node, score=hit.score) for hit in hits[: given.judged]]
        kept = reranker.postprocess_nodes(first, query_bundle=QueryBundle(given.text(q)))
        ids = {hit.node.node_id for hit in kept}
        return [*kept, *(hit for hit in hits if hit.node.node_id not in ids)]

    return retrieve


def _trained_adapter(given: PeerInput, taught: list[int]) -> npt.NDArray[np.float32]:
    """Return the adapter's matrix (d, d), trained on as many documents per query as a judge would see."""
    data, generator = given.indexed.data, np.random.default_rng(given.seed)
    pairs = [(q, row) for q in taught for row in generator.permutation(data.relevant[q])[: given.judged]]
    order = generator.permutation(len(pairs))
    asked = {q: given.vector(q) for q in taught}
    queries = np.array([asked[pairs[i][0]] for i in order])
    return train_linear_adapter(queries, given.indexed.vectors[[pairs[i][1] for i in order]])
