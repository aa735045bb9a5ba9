"""A small shop's messages as nodes, and an index over them."""

from __future__ import annotations

import uuid
import warnings

from fakes import WordEmbedding
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.vector_stores.qdrant import QdrantVectorStore

THINGS = ("printer", "router", "laptop", "phone", "watch")
MOODS = ("angry shouting furious", "happy grateful thanks", "calm plain note")


def node_id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def make_nodes() -> list[TextNode]:
    nodes = []
    for t, thing in enumerate(THINGS):
        for m, mood in enumerate(MOODS):
            for copy in range(6):
                extra = " ".join(f"filler{(7 * t + 3 * m + copy + step) % 23}" for step in range(3))
                text = f"order refund {thing} {mood} {extra} number{t}{m}{copy}"
                metadata = {"thing": thing, "mood": mood.split()[0]}
                nodes.append(
                    TextNode(
                        text=text,
                        id_=node_id(text),
                        metadata=metadata,
                        excluded_embed_metadata_keys=list(metadata),
                        excluded_llm_metadata_keys=list(metadata),
                    )
                )
    return nodes


def index_over(store: QdrantVectorStore, embed_model: WordEmbedding | None = None) -> VectorStoreIndex:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Payload indexes have no effect")
        return VectorStoreIndex(
            make_nodes(),
            storage_context=StorageContext.from_defaults(vector_store=store),
            embed_model=embed_model or WordEmbedding(),
        )
