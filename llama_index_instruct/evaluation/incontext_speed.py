"""Queries per CPU second with and without reuse of the beginning that all queries of a task share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaModel

from llama_index_instruct.embedders.positions import load_tokenizer
from llama_index_instruct.evaluation.threads import one_thread
from llama_index_instruct.incontext.encoder import LastTokenEncoder
from llama_index_instruct.models import MINILM, resolve_model

PREFIXES = (64, 128, 256)
QUERY_TOKENS = (6, 18)


def bench_prefix_reuse(*, queries: int = 64, rounds: int = 5) -> dict[str, dict[str, float]]:
    """Return per length of the beginning ``queries_per_cpu_s``, ``times_faster`` and ``largest_difference`` of unit vectors.

    Medians over interleaved rounds on one thread, float32, after one round that warms up; a Llama-type model of six layers and
    width 384 with random weights, queries of 6 to 17 tokens behind the beginning. The beginning's own pass, paid once per task,
    is not in the figures.
    """
    encoder = random_decoder()
    rng = np.random.default_rng(0)
    words = int(encoder.body.config.vocab_size)
    timed = {}
    with one_thread():
        for length in PREFIXES:
            shared = rng.integers(1000, words, length).tolist()
            rows = [[*shared, *rng.integers(1000, words, rng.integers(*QUERY_TOKENS)).tolist()] for _ in range(queries)]
            timed[str(length)] = _compared(encoder, rows, shared, rounds)
    return timed


def random_decoder() -> LastTokenEncoder:
    """Return a small decoder with random weights: slow and fast alike, whatever it says."""
    tokenizer = load_tokenizer(resolve_model(MINILM))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=12,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    body: Any = LlamaModel(config)
    return LastTokenEncoder(body.eval(), int(config.pad_token_id or 0))


def _compared(encoder: LastTokenEncoder, rows: list[list[int]], shared: list[int], rounds: int) -> dict[str, float]:
    rates, ratios = [], []
    for number in range(rounds + 1):
        short, reused = _timed(lambda: encoder.embed(rows, shared))
        long, whole = _timed(lambda: encoder.embed(rows))
        if number > 0:  # the first round warms up, and computes the beginning
            rates.append(len(rows) / short)
            ratios.append(long / short)
    units = [states / np.linalg.norm(states, axis=1, keepdims=True) for states in (reused, whole)]
    return {
        "queries_per_cpu_s": statistics.median(rates),
        "times_faster": statistics.median(ratios),
        "largest_difference": float(np.abs(units[0] - units[1]).max()),
    }


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = call()
    return time.process_time() - start, result
