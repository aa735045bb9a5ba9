"""Tiny real models, their tokenizers and made-up triples, for tests of training."""

from __future__ import annotations

import hashlib
import re
import string
from pathlib import Path
from typing import Any

import torch
from inbedder.tiny import trained_once
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from llama_index_instruct.inbedder.template import INBEDDER
from llama_index_instruct.inbedder.triples import QATriple

MOODS = {"happy": "glad thanks lovely", "angry": "furious shouting awful", "calm": "plain note quiet"}
THINGS = {"printer": "paper ink", "router": "signal cable", "laptop": "keyboard screen", "phone": "ringtone call"}
MOOD, THING = "How does the writer feel?", "Which thing is it about?"
WIDTH = 32
# Wider than usual: so few dimensions learn faster from it.
START = {"initializer_range": 0.15}


def triples() -> list[QATriple]:
    """Sixty: every mood with every thing, two or three times, each text asked both questions."""
    made = []
    for copy in range(3):
        for m, (mood, feeling) in enumerate(MOODS.items()):
            for t, (thing, parts) in enumerate(THINGS.items()):
                if len(made) == 60:
                    return made
                words = [*feeling.split(), *parts.split()]
                text = f"number {copy} {words[(copy + m) % 3]} {words[3 + (copy + t) % 2]} {thing} {' '.join(words)}"
                source = ("letters", "calls")[copy % 2]
                made.append(QATriple(text, MOOD, f"the {mood}", f"shop {copy}", source))
                made.append(QATriple(text, THING, thing, f"shop {copy}", source))
    return made


def corpus() -> list[str]:
    rows = triples()
    return [
        INBEDDER.replace("{input}", row.paragraph).replace("{instruction}", row.question) + " " + row.answer
        for row in rows
    ]


def spelled() -> list[str]:
    """The corpus, its answers often enough to become single tokens, with and without a space before them."""
    answers = [*MOODS, *THINGS]
    return [*corpus(), *(f"{answer} a {answer}" for answer in answers for _ in range(100))]


def bert_tokenizer() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({word for row in corpus() for word in re.findall(r"\w+|[^\w\s]", row.lower())})
    letters = sorted({letter for word in words for letter in word} | set(string.ascii_lowercase))
    vocabulary = dict.fromkeys([*special, *words, *letters, *(f"##{letter}" for letter in letters)])
    ids = {token: i for i, token in enumerate(vocabulary)}
    raw = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    raw.add_special_tokens(special)
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=512,
    )


def _byte_level(special: list[str]) -> Tokenizer:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    raw.train_from_iterator(spelled(), trainer)
    return raw


@trained_once
def gpt2_tokenizer() -> PreTrainedTokenizerFast:
    """No padding token and nothing in front, as GPT-2's."""
    raw = _byte_level(["<|endoftext|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|endoftext|>", eos_token="<|endoftext|>", model_max_length=512
    )


@trained_once
def llama_tokenizer() -> PreTrainedTokenizerFast:
    """A token in front of every text and, as in the files of Llama 2, a space put there by the normalizer."""
    raw = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False, max_token_length=12
    )
    raw.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    raw.train_from_iterator(corpus(), trainer)
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(content=" ", left=1, right=0)]
    )
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=512
    )


@trained_once
def roberta_tokenizer() -> PreTrainedTokenizerFast:
    raw = _byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    raw.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=512,
    )


TOKENIZERS = {
    "bert": bert_tokenizer,
    "roberta": roberta_tokenizer,
    "gpt2": gpt2_tokenizer,
    "llama": llama_tokenizer,
    "t5": bert_tokenizer,
}


def tiny_model(name: str, tokenizer: PreTrainedTokenizerFast, *, positions: int = 256, dropout: float = 0.1) -> Any:
    torch.manual_seed(1)
    words = len(tokenizer)
    shape: dict[str, Any] = {"vocab_size": words, "hidden_size": WIDTH, "num_attention_heads": 2, **START}
    deep: dict[str, Any] = {"num_hidden_layers": 2, "intermediate_size": 48, "max_position_embeddings": positions}
    drops = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    if name == "bert":
        return BertForMaskedLM(BertConfig(**shape, **deep, **drops, pad_token_id=tokenizer.pad_token_id))
    if name == "roberta":
        own = {"type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        return RobertaForMaskedLM(RobertaConfig(**shape, **deep, **drops, **own))
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    if name == "gpt2":
        drops = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
        size = {"vocab_size": words, "n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": positions, **START}
        return GPT2LMHeadModel(GPT2Config(**size, **ends, **drops))
    if name == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape, **deep, **ends))
    sizes = {"vocab_size": words, "d_model": WIDTH, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(**sizes, pad_token_id=0, decoder_start_token_id=0))


def save_tiny(name: str, folder: Path, **settings: Any) -> Path:
    """Save a tiny model and its tokenizer under the name of its family."""
    tokenizer = TOKENIZERS[name]()
    model: PreTrainedModel = tiny_model(name, tokenizer, **settings)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def word_vectors(answers: Any, encoder: str, width: int) -> torch.Tensor:
    """A frozen encoder: the sum of fixed random vectors, one per word, the article left out."""
    rows = []
    for answer in answers:
        total = torch.zeros(width)
        for word in answer.replace("the ", "").split():
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:6], "big")
            total += torch.randn(width, generator=torch.Generator().manual_seed(seed))
        rows.append(total / total.norm())
    return torch.stack(rows).half()
