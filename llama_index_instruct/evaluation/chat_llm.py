"""The base of LLMs that are scripts: asked by chat, and by nothing else."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, MessageRole
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.llms.custom import CustomLLM


class ChatOnlyLLM(CustomLLM):
    """Refuses everything but ``chat`` and ``achat``, which the subclass writes."""

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
        """Refuse: a chat model is asked by chat."""
        raise NotImplementedError("a chat model is asked by chat")

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **_: Any) -> Any:
        """Refuse: nothing is streamed."""
        raise NotImplementedError("answers are not streamed")


def chat_response(reply: str) -> ChatResponse:
    """Return a reply as a chat model gives it."""
    return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=reply))
