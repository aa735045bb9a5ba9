"""Texts per CPU second of the answering models, as ratios to what one would write without this package, in one run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM, OPTForCausalLM

from llama_index_instruct.embedders.packing import packed
from llama_index_instruct.evaluation.embedders import is_sentence_encoder
from llama_index_instruct.evaluation.random_models import random_llama, random_opt
from llama_index_instruct.evaluation.threads import one_thread
from llama_index_instruct.evaluation.timing import cpu_seconds
from llama_index_instruct.inbedder.architectures import Architecture, CausalLM, Seq2SeqLM
from llama_index_instruct.inbedder.embedding import InBedderEmbedding
from llama_index_instruct.inbedder.encoder import AnswerEncoder, EncoderSettings

INSTRUCTION = "What is the text about?"
WORDS = (
    "time",
    "house",
    "people",
    "green",
    "river",
    "music",
    "number",
    "table",
    "winter",
    "answer",
    "market",
    "letter",
)
BATCH = 32


RANDOM_CAUSAL = {
    "random-llama-6x384": partial(random_llama, LlamaForCausalLM),
    "random-opt-6x384": partial(random_opt, OPTForCausalLM),
}
PUBLISHED_TOKENS = {"llama": 3, "opt": 20}
"""Most tokens that the authors' code decodes for one text, by type of model; a trained model's answers may end before."""


def mixed_texts(count: int, seed: int = 0) -> list[str]:
    """Return texts of 3 to 200 words, lengths log-normal with a mean of 36: short and long together."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(3.1, 0.95, count), 3, 200).astype(int)
    return [" ".join(rng.choice(WORDS, size)) for size in lengths]


def bench_encoder_speed(models: Mapping[str, str], *, texts: int = 192, rounds: int = 5) -> dict[str, dict[str, float]]:
    """Return per model ``texts_per_cpu_s`` and ``vs_reference``, medians over interleaved rounds, one thread, float32.

    The reference of causal models is the published procedure: ``generate()`` with the hidden states of all layers and steps, on
    batches of 32 sorted by length. The reference of the others is a bare forward pass over the very batches that the
    embedding class packs. Sentence encoders are left out; two small causal models with random weights are always timed.

    Args:
        models: Name in the record -> model.
        texts: Of mixed lengths.
        rounds: Of each: ours, then the reference.
    """
    read = mixed_texts(texts)
    with one_thread():
        timed = {
            name: _timed(AnswerEncoder(*build(), "causal", EncoderSettings()), read, rounds)
            for name, build in RANDOM_CAUSAL.items()
        }
        for name, model in models.items():
            if not is_sentence_encoder(model):
                encoder = InBedderEmbedding(model, INSTRUCTION, dtype="float32", device="cpu").encoder
                timed[name] = _timed(encoder, read, rounds)
    return timed


def _timed(encoder: AnswerEncoder, texts: list[str], rounds: int) -> dict[str, float]:
    prompts, _ = encoder.prompts.encode(texts, [INSTRUCTION] * len(texts))
    architecture = encoder.architecture
    reference = (
        (lambda: generate_states(architecture, prompts))
        if isinstance(architecture, CausalLM)
        else (lambda: bare_forward(architecture, prompts, encoder.batch_tokens))
    )
    ours, ratios = [], []
    for number in range(rounds + 1):
        mine, _ = cpu_seconds(lambda: encoder.embed(texts, INSTRUCTION))
        theirs, _ = cpu_seconds(reference)
        if number > 0:  # the first round warms up
            ours.append(len(texts) / mine)
            ratios.append(theirs / mine)
    return {"texts_per_cpu_s": statistics.median(ours), "vs_reference": statistics.median(ratios)}


@torch.inference_mode()
def generate_states(architecture: CausalLM, prompts: list[list[int]]) -> None:
    """Run the published procedure: decode an answer, keep every hidden state, take one of them."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    model: Any = architecture.model
    new_tokens = PUBLISHED_TOKENS.get(model.config.model_type, min(PUBLISHED_TOKENS.values()))
    for at in range(0, len(order), BATCH):
        inputs = Architecture.batch(architecture, [prompts[i] for i in order[at : at + BATCH]])
        generated = model.generate(
            **inputs,
            max_new_tokens=new_tokens,
            do_sample=False,
            output_hidden_states=True,
            return_dict_in_generate=True,
            pad_token_id=architecture.tokenizer.pad_token_id,
        )
        generated.hidden_states[0][-1][:, -1].float().cpu().numpy()


@torch.inference_mode()
def bare_forward(architecture: Architecture, prompts: list[list[int]], budget: int) -> None:
    """Run the model's body alone over the packed batches."""
    for at in packed([len(prompt) for prompt in prompts], budget):
        inputs = architecture.batch([prompts[i] for i in at])
        if isinstance(architecture, Seq2SeqLM):
            inputs["decoder_input_ids"] = architecture.start(len(at))
        architecture.model.base_model(**inputs)
