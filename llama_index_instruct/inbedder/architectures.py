"""The three architectures behind one call: prompts as token ids in, answer states or answers out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from llama_index_instruct.embedders.positions import position_ids
from llama_index_instruct.inbedder.decoding import Decoded, decode
from llama_index_instruct.inbedder.loading import output_embeddings, prediction_head
from llama_index_instruct.inbedder.pooling import Pooling, blended, expected_answer, masked_mean, pool_steps

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


class Architecture(ABC):
    """What differs between causal, masked and encoder-decoder models.

    Args:
        model: In evaluation mode, on its device.
        tokenizer: Its own.
        layer: Hidden state to read: 0 is the token embedding, -1 the last, after the final normalisation.
        steps: Most answer tokens that decoding predicts.
        dropped: Tokens that pooling skips and answers leave out, besides the special ones.
    """

    pad_left = False

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        layer: int = -1,
        steps: int = 20,
        dropped: frozenset[int] = frozenset(),
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.layer = layer
        self.steps = steps
        special = [*tokenizer.all_special_ids, *self.ends]
        self.dropped = torch.tensor(sorted({*special, *dropped}), device=model.device)

    @property
    def ends(self) -> set[int]:
        """Return the tokens that end an answer."""
        config = getattr(self.model, "generation_config", None)
        end = getattr(config, "eos_token_id", None)
        ends = set(end) if isinstance(end, list) else {end, self.tokenizer.eos_token_id}
        return {int(token) for token in ends if token is not None}

    @abstractmethod
    def embed(self, prompts: Sequence[Sequence[int]], pooling: Pooling, prompt_share: float = 0.0) -> Tensor:
        """Return the pooled states of a batch of prompts, (b, d).

        Args:
            prompts: Token ids.
            pooling: Which states.
            prompt_share: How much of the prompt's mean state is added, see ``blended``; only where one pass gives both.
        """

    @abstractmethod
    def answer_tokens(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Return the predicted answer tokens, (b, s)."""

    def answer(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        """Return what the model would say."""
        tokens = self.answer_tokens(prompts)
        kept = ~torch.isin(tokens, self.dropped)
        return [
            str(self.tokenizer.decode(row[keep].tolist(), skip_special_tokens=True)).strip()
            for row, keep in zip(tokens, kept, strict=True)
        ]

    def batch(self, prompts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Return the padded ids and their attention mask."""
        longest = max(len(prompt) for prompt in prompts)
        pad = cast(int, self.tokenizer.pad_token_id)
        ids = torch.full((len(prompts), longest), pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            place = slice(longest - len(prompt), longest) if self.pad_left else slice(0, len(prompt))
            ids[row, place] = torch.tensor(prompt)
            mask[row, place] = 1
        return {"input_ids": ids.to(self.model.device), "attention_mask": mask.to(self.model.device)}

    def body(self, **inputs: Any) -> Tensor:
        """Return the (b, t, d) states of the layer asked for, without running the language-model head."""
        every = self.layer != -1
        output = self.model.base_model(**inputs, output_hidden_states=every)
        return cast(Tensor, output.hidden_states[self.layer] if every else output.last_hidden_state)


class CausalLM(Architecture):
    """Left padding: every prompt ends where decoding goes on. ``first_gen`` is one forward pass without the head."""

    pad_left = True

    def batch(self, prompts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Return the padded ids, their mask, and their positions where the model takes any."""
        inputs = super().batch(prompts)
        return inputs | position_ids(self.model, inputs["attention_mask"])

    def embed(self, prompts: Sequence[Sequence[int]], pooling: Pooling, prompt_share: float = 0.0) -> Tensor:
        """Pool one batch; only ``avg_gen`` and ``last_gen`` decode."""
        if pooling in ("avg_gen", "last_gen"):
            decoded = self.decoded(prompts)
            kept = ~torch.isin(decoded.tokens, self.dropped)
            return pool_steps(decoded.states, kept, pooling, feeds_back=True)
        inputs = self.batch(prompts)
        if pooling == "expected_answer":
            scores = self.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]
            return expected_answer(scores, output_embeddings(self.model))
        states = self.body(**inputs, use_cache=False)
        if pooling == "first_gen" and not prompt_share:
            return states[:, -1]
        read = inputs["attention_mask"].bool().clone()
        read[:, -1] = False
        prompt = masked_mean(states, read)
        return blended(states[:, -1], prompt, prompt_share) if pooling == "first_gen" else prompt

    def answer_tokens(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Decode greedily."""
        return self.decoded(prompts).tokens

    def decoded(self, prompts: Sequence[Sequence[int]]) -> Decoded:
        """Decode a batch with a key-value cache, keeping the states of the layer asked for."""
        inputs = self.batch(prompts)
        mask = inputs["attention_mask"]

        def step(fed: Tensor, cache: Any) -> tuple[Tensor, Tensor, Any]:
            nonlocal mask
            if cache.get_seq_length() > 0:
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            positions = {name: p[:, -fed.shape[1] :] for name, p in position_ids(self.model, mask).items()}
            output = self.model(
                input_ids=fed,
                attention_mask=mask,
                **positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                output_hidden_states=True,
            )
            return output.hidden_states[self.layer][:, -1], output.logits[:, -1], output.past_key_values

        cache = DynamicCache(config=self.model.config)
        return decode(step, inputs["input_ids"], cache, steps=self.steps, end=self.ends, pad=self._pad)

    @property
    def _pad(self) -> int:
        return cast(int, self.tokenizer.pad_token_id)


class MaskedLM(Architecture):
    """The answer stands at mask tokens behind the cue; one forward pass, right padding.

    ``first_gen`` and ``last_gen`` are the first and the last mask, ``avg_gen`` the mean of all (the paper's choice),
    ``avg_prompt`` the mean of everything else but the closing token.

    Args:
        masks: How many mask tokens every prompt ends with, one closing token after them.
    """

    def __init__(self, *args: Any, masks: int, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.masks = masks

    def embed(self, prompts: Sequence[Sequence[int]], pooling: Pooling, prompt_share: float = 0.0) -> Tensor:
        """Pool one batch."""
        inputs = self.batch(prompts)
        states = self.body(**inputs)
        at = self._mask_positions(inputs)
        rows = torch.arange(len(at), device=at.device)[:, None]
        if pooling == "avg_prompt":
            return self._prompt_mean(states, inputs["attention_mask"], rows, at)
        if pooling == "expected_answer":
            return expected_answer(
                prediction_head(self.model)(states[rows[:, 0], at[:, 0]]), output_embeddings(self.model)
            )
        masks = states[rows, at]
        answer = masks.mean(dim=1) if pooling == "avg_gen" else masks[:, 0 if pooling == "first_gen" else -1]
        if not prompt_share:
            return answer
        return blended(answer, self._prompt_mean(states, inputs["attention_mask"], rows, at), prompt_share)

    def _prompt_mean(self, states: Tensor, mask: Tensor, rows: Tensor, at: Tensor) -> Tensor:
        read = mask.bool().clone()
        read[rows, at] = False
        read[rows, at[:, -1:] + 1] = False
        return masked_mean(states, read)

    def answer_tokens(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read the likeliest word at every mask, up to the first end token."""
        inputs = self.batch(prompts)
        states = self.model.base_model(**inputs).last_hidden_state
        at = self._mask_positions(inputs)
        rows = torch.arange(len(at), device=at.device)[:, None]
        tokens: Tensor = prediction_head(self.model)(states[rows, at]).argmax(dim=-1)
        end = cast(int, self.tokenizer.sep_token_id)
        # Masks are read independently of each other: a word said twice in a row is one word.
        again = functional.pad(tokens[:, 1:] == tokens[:, :-1], (1, 0), value=False)
        return tokens.masked_fill((tokens == end).cumsum(dim=1) > 0, end).masked_fill(again, end)

    def _mask_positions(self, inputs: dict[str, Tensor]) -> Tensor:
        ends = inputs["attention_mask"].sum(dim=1, keepdim=True)
        return ends - 1 - self.masks + torch.arange(self.masks, device=ends.device)


class Seq2SeqLM(Architecture):
    """The encoder reads the prompt, the decoder's steps are the answer states; ``avg_prompt`` pools the encoder."""

    def embed(self, prompts: Sequence[Sequence[int]], pooling: Pooling, prompt_share: float = 0.0) -> Tensor:
        """Pool one batch; the prompt's states are another network's, and cannot be added."""
        inputs = self.batch(prompts)
        if pooling == "avg_prompt":
            output = self.model.get_encoder()(**inputs, output_hidden_states=True)
            states = output.last_hidden_state if self.layer == -1 else output.hidden_states[self.layer]
            return masked_mean(states, inputs["attention_mask"].bool())
        if pooling == "expected_answer":
            start = self.start(len(prompts))
            scores = self.model(**inputs, decoder_input_ids=start, use_cache=False).logits[:, -1]
            return expected_answer(scores, output_embeddings(self.model))
        if pooling == "first_gen":
            return self.decoded(inputs, steps=1).states[:, 0]
        decoded = self.decoded(inputs, steps=self.steps)
        kept = ~torch.isin(decoded.tokens, self.dropped)
        return pool_steps(decoded.states, kept, pooling, feeds_back=False)

    def answer_tokens(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Decode greedily."""
        return self.decoded(self.batch(prompts), steps=self.steps).tokens

    def decoded(self, inputs: dict[str, Tensor], *, steps: int) -> Decoded:
        """Decode a batch; the encoder runs once."""
        encoded = self.model.get_encoder()(**inputs)

        def step(fed: Tensor, cache: Any) -> tuple[Tensor, Tensor, Any]:
            output = self.model(
                encoder_outputs=encoded,
                attention_mask=inputs["attention_mask"],
                decoder_input_ids=fed,
                past_key_values=cache,
                use_cache=True,
                output_hidden_states=True,
            )
            states = output.decoder_hidden_states[self.layer][:, -1]
            return states, output.logits[:, -1], output.past_key_values

        first = self.start(len(inputs["input_ids"]))
        pad = cast(int, self.tokenizer.pad_token_id)
        return decode(step, first, None, steps=steps, end=self.ends, pad=pad)

    def start(self, rows: int) -> Tensor:
        """Return what the decoder is fed first, (rows, 1)."""
        start = cast(Any, self.model.generation_config).decoder_start_token_id
        if start is None:
            start = self.model.config.decoder_start_token_id
        return torch.full((rows, 1), start, device=self.model.device)


ARCHITECTURES = {"causal": CausalLM, "masked": MaskedLM, "seq2seq": Seq2SeqLM}

__all__ = ["ARCHITECTURES", "Architecture", "CausalLM", "MaskedLM", "Seq2SeqLM"]
