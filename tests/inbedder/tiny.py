"""Seven tiny real models with seeded random weights, each with a small fast tokenizer trained on a few sentences."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

CAUSAL = ("opt", "llama", "qwen2", "gpt2")
MASKED = ("roberta", "bert")
ARCHITECTURES = (*CAUSAL, *MASKED, "t5")

FEELING = "How does the writer feel?"
TOPIC = "Which product is this about?"
TEXTS = (
    "The printer jams every morning and nobody answers.",
    "Thank you!",
    "I love the new watch, it works like a charm and my whole family wants one too.",
    "",
    "My order number 42 has not arrived; the laptop was paid two weeks ago, please help me find it soon.",
    "Würde das Telefon mit 日本 funktionieren? 🙂",
    "ok",
)
PATTERN = "### Input:\n{input}\n\n### Instruction:\n{instruction}\n\n### Response:"
LITERAL = (
    "a </s> <s> [MASK] <mask> <pad> [PAD] [SEP] [CLS] <|endoftext|> <|im_end|> <extra_id_0> {instruction} {input} b"
)
SPECIAL = {
    "opt": ["<s>", "<pad>", "</s>", "<unk>"],
    "llama": ["<unk>", "<s>", "</s>"],
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "gpt2": ["<|endoftext|>"],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "t5": ["<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_1>"],
}
NAMES = {
    "opt": {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"},
    "llama": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "qwen2": {
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": ["<|im_start|>"],
    },
    "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
    "roberta": {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "cls_token": "<s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    },
    "bert": {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    "t5": {
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "additional_special_tokens": ["<extra_id_0>", "<extra_id_1>"],
    },
}
AROUND = {
    "opt": "</s> $A",
    "llama": "<s> $A",
    "roberta": "<s> $A </s>",
    "bert": "[CLS] $A [SEP]",
    "t5": "$A </s>",
}
POSITIONS = 160
SIZE = 32
LAYERS = 2


def unigrams(special: list[str], corpus: list[str]) -> list[tuple[str, float]]:
    """Special tokens with the best score, as T5 has them, then words and characters; the trainer is not deterministic."""
    words = sorted({"\u2581" + word for text in corpus for word in text.split(" ")})
    characters = sorted({character for word in words for character in word} - set(words))
    scores = ((special, 0.0), (words, -6.0), (characters, -9.0))
    return [(piece, score) for pieces, score in scores for piece in pieces]


Made = TypeVar("Made")


def trained_once(make: Callable[..., Made]) -> Callable[..., Made]:
    """Copies of one tokenizer: trained anew on the same texts it may get other words, as ties are broken by chance."""
    cached = functools.cache(make)
    return functools.wraps(make)(lambda *arguments: copy.deepcopy(cached(*arguments)))


@trained_once
def make_tokenizer(name: str) -> PreTrainedTokenizerFast:
    special, corpus = SPECIAL[name], [PATTERN, FEELING, TOPIC, *TEXTS]
    if name == "bert":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=320, special_tokens=special, show_progress=False)
    elif name == "t5":
        tokenizer = Tokenizer(models.Unigram(unigrams(special, corpus), unk_id=special.index("<unk>")))
        tokenizer.add_special_tokens(special)
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = None
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    if trainer:
        tokenizer.train_from_iterator(corpus, trainer)
    if name in AROUND:
        used = [token for token in special if token in AROUND[name].split()]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=AROUND[name], special_tokens=[(token, tokenizer.token_to_id(token)) for token in used]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES[name])


def make_model(name: str, tokenizer: PreTrainedTokenizerFast, **changes):
    size = {"hidden_size": SIZE, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    common = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if name == "opt":
        projected = {"word_embed_proj_dim": SIZE} | changes
        config = OPTConfig(**common, **size, ffn_dim=64, max_position_embeddings=POSITIONS, **projected)
        return OPTForCausalLM(config)
    if name == "llama":
        config = LlamaConfig(
            **common, **size, intermediate_size=64, max_position_embeddings=POSITIONS, num_key_value_heads=2, **changes
        )
        return LlamaForCausalLM(config)
    if name == "qwen2":
        config = Qwen2Config(
            **common, **size, intermediate_size=64, max_position_embeddings=POSITIONS, num_key_value_heads=2, **changes
        )
        return Qwen2ForCausalLM(config)
    if name == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(**common, n_embd=SIZE, n_layer=LAYERS, n_head=4, n_positions=POSITIONS, **changes)
        )
    if name == "roberta":
        positions = POSITIONS + tokenizer.pad_token_id + 1
        config = RobertaConfig(
            **common, **size, intermediate_size=64, max_position_embeddings=positions, type_vocab_size=1, **changes
        )
        return RobertaForMaskedLM(config)
    if name == "bert":
        return BertForMaskedLM(
            BertConfig(**common, **size, intermediate_size=64, max_position_embeddings=POSITIONS, **changes)
        )
    layers = {"num_layers": LAYERS, "num_decoder_layers": LAYERS} | changes
    return T5ForConditionalGeneration(
        T5Config(**common, d_model=SIZE, d_kv=8, d_ff=64, num_heads=4, decoder_start_token_id=0, **layers)
    )


def save(name: str, folder: Path, **changes) -> Path:
    """Save model and tokenizer; weights are large enough for texts and instructions to matter."""
    torch.manual_seed(7)
    tokenizer = make_tokenizer(name)
    model = make_model(name, tokenizer, **changes)
    generator = torch.Generator().manual_seed(13 if name == "t5" else 11)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.25, generator=generator)
            elif not parameter.any():
                parameter.normal_(0.0, 0.05, generator=generator)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
