"""Hugging Face model -> answer states: prompts packed by length, one forward pass per batch."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from llama_index_instruct.embedders.devices import batch_tokens, choose_dtype, default_device
from llama_index_instruct.embedders.packing import run_packed
from llama_index_instruct.embedders.positions import load_tokenizer, longest_prompt, positions
from llama_index_instruct.errors import ConfigurationError, InstructWarning
from llama_index_instruct.inbedder.template import find_template
from llama_index_instruct.inbedder.tokenization import PromptTokenizer, special_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

    from llama_index_instruct.inbedder.architectures import Architecture
    from llama_index_instruct.inbedder.loading import Kind
    from llama_index_instruct.inbedder.pooling import Pooling

T = TypeVar("T")

LONGEST_PROMPT = 512
SHORTEST_PROMPT = 8


@dataclass(frozen=True)
class EncoderSettings:
    """How prompts are made and read; None leaves a choice to the model.

    Attributes:
        pooling: Which states are the embedding.
        layer: Hidden state to read, -1 for the last.
        prompt_share: How much of the prompt's mean state is added to the answer, both of length one.
        template: Name or pattern of the prompt template.
        masks: Mask tokens of a masked model.
        max_length: Longest prompt in tokens.
        max_new_tokens: Most answer tokens that decoding predicts.
        batch_tokens: Tokens of a batch, padding included; None: 1,024 on a CPU, 16,384 on an accelerator.
        dropped_words: Words whose tokens pooling and answers skip.
    """

    pooling: Pooling | None = None
    layer: int = -1
    prompt_share: float | None = None
    template: str | None = None
    masks: int | None = None
    max_length: int | None = None
    max_new_tokens: int = 20
    batch_tokens: int | None = None
    dropped_words: tuple[str, ...] = field(default=())


class AnswerEncoder:
    """A language model that embeds its answers. One thread at a time; others wait.

    Args:
        model: With its language-model head, on its device.
        tokenizer: Its own.
        kind: How it answers.
        settings: What the model's own configuration does not say better: a checkpoint of ours records pooling, template and
            masks under ``inbedder`` in its ``config.json``.

    Raises:
        ConfigurationError: If a setting does not fit the model.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, kind: Kind, settings: EncoderSettings
    ) -> None:
        from llama_index_instruct.inbedder.architectures import ARCHITECTURES
        from llama_index_instruct.inbedder.words import stopword_ids

        own = getattr(model.config, "inbedder", None) or {}
        self.kind = kind
        self.pooling: Pooling = settings.pooling or own.get("pooling") or _DEFAULT_POOLING[kind]
        self.template = settings.template or own.get("template") or "inbedder"
        self.masks = settings.masks or own.get("masks") or 3
        share = settings.prompt_share
        self.prompt_share = float(own.get("prompt_share", 0.0)) if share is None else share
        self._check_share(settings)
        self.max_length = _prompt_room(model.config, tokenizer, kind, settings)
        self._check_layer(model.config, settings.layer)
        prefix, suffix = special_tokens(tokenizer, kind, self.masks)
        self.prompts = PromptTokenizer(
            tokenizer, find_template(self.template), max_length=self.max_length, prefix=prefix, suffix=suffix
        )
        extra: dict[str, Any] = {"masks": self.masks} if kind == "masked" else {}
        dropped = stopword_ids(tokenizer, settings.dropped_words) if settings.dropped_words else frozenset[int]()
        self.architecture: Architecture = ARCHITECTURES[kind](
            model, tokenizer, layer=settings.layer, steps=settings.max_new_tokens, dropped=dropped, **extra
        )
        self.batch_tokens = settings.batch_tokens or batch_tokens(model.device)
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str], instruction: str) -> NDArray[np.float32]:
        """Return the pooled answer states, (n, d), not normalised.

        Raises:
            ConfigurationError: If the instruction alone does not fit the model's window.
        """
        rows: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(texts)

        def read(prompts: list[list[int]], at: list[int]) -> None:
            pooled = self.architecture.embed(prompts, self.pooling, self.prompt_share).float().cpu().numpy()
            for i, row in zip(at, pooled, strict=True):
                rows[i] = row

        self._each_batch(texts, instruction, read)
        return np.stack(rows) if rows else np.empty((0, 0), dtype=np.float32)

    def answer(self, texts: Sequence[str], instruction: str) -> list[str]:
        """Return what the model would say about each text."""
        answers = [""] * len(texts)

        def read(prompts: list[list[int]], at: list[int]) -> None:
            for i, answer in zip(at, self.architecture.answer(prompts), strict=True):
                answers[i] = answer

        self._each_batch(texts, instruction, read)
        return answers

    def _each_batch(
        self, texts: Sequence[str], instruction: str, read: Callable[[list[list[int]], list[int]], None]
    ) -> None:
        import torch

        with self._lock, torch.inference_mode():
            prompts, cut = self.prompts.encode(texts, [instruction] * len(texts))
            if cut:
                warnings.warn(
                    f"{cut} of {len(texts)} texts lost their end: prompts hold at most {self.max_length} tokens",
                    InstructWarning,
                    stacklevel=4,
                )
            run_packed(
                [len(prompt) for prompt in prompts], self.batch_tokens, lambda at: read([prompts[i] for i in at], at)
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> AnswerEncoder:
        return self  # never changes, and is safe to share

    def _check_share(self, settings: EncoderSettings) -> None:
        if (self.kind, self.pooling) in _ONE_PASS:
            return
        if settings.prompt_share:
            raise ConfigurationError(
                f"prompt_share: expected 0 with pooling {self.pooling!r} of a {self.kind} model, found {self.prompt_share}"
            )
        self.prompt_share = 0.0

    def _check_layer(self, config: PretrainedConfig, layer: int) -> None:
        if self.pooling == "expected_answer" and layer != -1:
            raise ConfigurationError(f"layer: expected -1 with pooling 'expected_answer', found {layer}")
        last = int(config.num_hidden_layers)
        if self.kind == "seq2seq" and self.pooling != "avg_prompt":
            last = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None) or last
        if not -1 <= layer <= last:
            raise ConfigurationError(f"layer: expected -1 or 0 to {last}, found {layer}")


_ONE_PASS = {("causal", "first_gen"), *(("masked", pooling) for pooling in ("first_gen", "last_gen", "avg_gen"))}
"""Where one forward pass gives the answer's state and the prompt's."""

_DEFAULT_POOLING: dict[str, Pooling] = {"causal": "first_gen", "masked": "avg_gen", "seq2seq": "first_gen"}


def _prompt_room(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast, kind: Kind, settings: EncoderSettings
) -> int:
    """Return the longest prompt: what is asked for, or what the model reads, less what a causal model still decodes."""
    decoded = settings.max_new_tokens - 1 if kind == "causal" else 0
    room = min(longest_prompt(config, tokenizer), positions(config) - decoded)
    if room < SHORTEST_PROMPT:
        raise ConfigurationError(
            f"max_new_tokens: the model reads {positions(config)} tokens in all, found {settings.max_new_tokens} for the answer"
        )
    return min(settings.max_length or LONGEST_PROMPT, room)


def load_encoder(
    path: str,
    settings: EncoderSettings,
    *,
    device: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    revision: str | None = None,
    cache_folder: str | None = None,
) -> AnswerEncoder:
    """Load a model for embedding.

    Args:
        path: Folder or Hub name.
        settings: See ``EncoderSettings``.
        device: For example ``"cuda:0"``; None takes an accelerator if there is one.
        dtype: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``. ``"auto"`` is bfloat16 where the hardware
            multiplies it natively, else float32.
        trust_remote_code: Run code that comes with a Hub model.
        revision: Branch, tag or commit of a Hub model.
        cache_folder: Where Hub models are kept.
    """
    import torch
    from transformers import AutoConfig

    from llama_index_instruct.inbedder.loading import load_model, model_kind
    from llama_index_instruct.inbedder.weights import is_quantized, load_quantized

    source: dict[str, Any] = {
        "trust_remote_code": trust_remote_code,
        "revision": revision,
        "cache_dir": cache_folder,
    }
    target = torch.device(device or default_device())
    kind = model_kind(AutoConfig.from_pretrained(path, **source))
    number = choose_dtype(dtype, target)
    model = load_quantized(path, number) if is_quantized(path) else load_model(path, kind, dtype=number, **source)
    cast(Any, model).to(target)
    cast(Any, model).eval()
    return AnswerEncoder(model, load_tokenizer(path, **source), kind, settings)
