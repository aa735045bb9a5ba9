"""Tiny real decoders for in-context embedding: those of InBedder's tests, and Mistral and Gemma."""

from __future__ import annotations

from pathlib import Path

import torch
from inbedder.tiny import (
    AROUND,
    CAUSAL,
    FEELING,
    LAYERS,
    POSITIONS,
    SIZE,
    TEXTS,
    TOPIC,
    make_model,
    make_tokenizer,
    trained_once,
)
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import GemmaConfig, GemmaModel, MistralConfig, MistralModel, PreTrainedTokenizerFast

DECODERS = (*CAUSAL, "mistral", "gemma")
EXAMPLES = [("The printer jams", "printer"), ("order 42: {query} {task}", "a {passage}")]
QUERIES = (
    "The laptop works like a charm, thank you",
    "ok",
    " two spaces  ahead",
    "\n\nlines",
    "",
    "日本 🙂",
    "(7) {task} {query} {passage} {}",
)
PASSAGES = [text for text in TEXTS if text]
__all__ = ["DECODERS", "EXAMPLES", "FEELING", "PASSAGES", "QUERIES", "SIZE", "TOPIC", "save", "tokenizer_for"]


@trained_once
def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """As Gemma has it: no pre-tokenizer, spaces are pieces like any other, unknown characters are bytes."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([FEELING, TOPIC, "Instruct: \nQuery: \nResponse:", *TEXTS], trainer)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = around(tokenizer, "<bos> $A")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


def around(tokenizer: Tokenizer, pattern: str) -> processors.TemplateProcessing:
    """A post-processor that puts special tokens around a text, such as ``"<bos> $A <eos>"``."""
    used = [piece for piece in dict.fromkeys(pattern.split()) if piece != "$A"]
    return processors.TemplateProcessing(
        single=pattern, special_tokens=[(piece, tokenizer.token_to_id(piece)) for piece in used]
    )


def tokenizer_for(
    name: str, *, ends: bool = True, appends: str | None = None, composes: bool = False
) -> PreTrainedTokenizerFast:
    """Return the tokenizer of an architecture.

    Args:
        name: One of ``DECODERS``.
        ends: Whether it knows an end token.
        appends: Token that it puts behind every text itself.
        composes: Whether it composes characters (NFC), as Qwen's does.
    """
    tokenizer = gemma_tokenizer() if name == "gemma" else make_tokenizer("llama" if name == "mistral" else name)
    backend = tokenizer.backend_tokenizer
    if appends:
        before = "<bos> $A" if name == "gemma" else AROUND.get("llama" if name == "mistral" else name, "$A")
        backend.post_processor = around(backend, f"{before} {appends}")
    if composes:
        backend.normalizer = normalizers.NFC()
    if not ends:
        tokenizer.eos_token = None
    return tokenizer


def body_for(name: str, tokenizer: PreTrainedTokenizerFast, **changes):
    if name in CAUSAL:
        return make_model(name, tokenizer, **changes)
    size = {"hidden_size": SIZE, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2}
    common = {"vocab_size": len(tokenizer), "intermediate_size": 64, "max_position_embeddings": POSITIONS}
    names = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    if name == "mistral":
        return MistralModel(MistralConfig(**common, **size, **names, **{"sliding_window": None} | changes))
    return GemmaModel(GemmaConfig(**common, **size, **names, head_dim=8, **changes))


def save(name: str, folder: Path, *, tokenizer: PreTrainedTokenizerFast | None = None, **changes) -> Path:
    """Save a seeded random model and its tokenizer; weights are large enough for texts and tasks to matter."""
    tokenizer = tokenizer or tokenizer_for(name)
    torch.manual_seed(7)
    body = body_for(name, tokenizer, **changes)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in body.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.25, generator=generator)
            elif not parameter.any():
                parameter.normal_(0.0, 0.05, generator=generator)
    body.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
