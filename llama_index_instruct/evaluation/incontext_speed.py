"""Queries per CPU second with and without reuse of the beginning that all queries of a task share."""

from __future__ import annotations

import statistics

import numpy as np
from transformers import LlamaModel

from llama_index_instruct.evaluation.random_models import random_llama
from llama_index_instruct.evaluation.threads import one_thread
from llama_index_instruct.evaluation.timing import cpu_seconds
from llama_index_instruct.incontext.encoder import LastTokenEncoder

PREFIXES = (64, 128, 256)
QUERY_TOKENS = (6, 18)


def bench_prefix_reuse(*, queries: int = 64, rounds: int = 5) -> dict[str, dict[str, float]]:
    """Return per length of the beginning ``queries_per_cpu_s``, ``times_faster`` and ``largest_difference`` of unit vectors.

    Medians over interleaved rounds on one thread, float32, after one round that warms up; a Llama-type model of six layers and
    width 384 with random weights, queries of 6 to 17 tokens behind the beginning. The beginning's own pass, paid once per task,
    is not in the figures.
    """
    body, tokenizer = random_llama(LlamaModel)
    encoder = LastTokenEncoder(body, tokenizer.pad_token_id)
    rng = np.random.default_rng(0)
    words = int(encoder.body.config.vocab_size)
    timed = {}
    with one_thread():
        for length in PREFIXES:
            shared = rng.integers(1000, words, length).tolist()
            rows = [[*shared, *rng.integers(1000, words, rng.integers(*QUERY_TOKENS)).tolist()] for _ in range(queries)]
            timed[str(length)] = _compared(encoder, rows, shared, rounds)
    return timed


def _compared(encoder: LastTokenEncoder, rows: list[list[int]], shared: list[int], rounds: int) -> dict[str, float]:
    rates, ratios = [], []
    for number in range(rounds + 1):
        short, reused = cpu_seconds(lambda: encoder.embed(rows, shared))
        long, whole = cpu_seconds(lambda: encoder.embed(rows))
        if number > 0:  # the first round warms up, and computes the beginning
            rates.append(len(rows) / short)
            ratios.append(long / short)
    units = [states / np.linalg.norm(states, axis=1, keepdims=True) for states in (reused, whole)]
    return {
        "queries_per_cpu_s": statistics.median(rates),
        "times_faster": statistics.median(ratios),
        "largest_difference": float(np.abs(units[0] - units[1]).max()),
    }
