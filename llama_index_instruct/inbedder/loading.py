"""Hugging Face models by kind: which of the three architectures a folder holds, and how it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

from llama_index_instruct.errors import ConfigurationError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

Kind = Literal["causal", "masked", "seq2seq"]

_ENDINGS: tuple[tuple[str, Kind], ...] = (
    ("ForMaskedLM", "masked"),
    ("ForPreTraining", "masked"),
    ("ForConditionalGeneration", "seq2seq"),
    ("ForCausalLM", "causal"),
    ("LMHeadModel", "causal"),
)


def model_kind(config: PretrainedConfig) -> Kind:
    """Tell from a configuration how the model answers.

    A bare encoder ("BertModel") counts as masked: its language-model head may be missing and then starts untrained.

    Raises:
        ConfigurationError: If the architecture is none of the three kinds.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    if getattr(config, "is_encoder_decoder", False):
        return "seq2seq"
    for name in getattr(config, "architectures", None) or ():
        for ending, kind in _ENDINGS:
            if name.endswith(ending):
                return kind
    if config.model_type in MASKED and not getattr(config, "is_decoder", False):
        return "masked"
    if config.model_type in CAUSAL:
        return "causal"
    raise ConfigurationError(
        f"model: expected a causal, masked or sequence-to-sequence language model, found type {config.model_type!r} "
        f"with architectures {getattr(config, 'architectures', None)}"
    )


def load_model(path: str, kind: Kind, *, dtype: torch.dtype | None = None, **settings: Any) -> PreTrainedModel:
    """Load the weights of a folder or Hub model with the language-model head of its kind.

    A masked model without head (a sentence encoder) gets one whose dense layer starts at the identity, so that it
    predicts the words its states resemble.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    loaders = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM, "seq2seq": AutoModelForSeq2SeqLM}
    model, report = loaders[kind].from_pretrained(path, dtype=dtype, output_loading_info=True, **settings)
    _start_missing_head(model, report["missing_keys"])
    return cast("PreTrainedModel", model)


def _start_missing_head(model: PreTrainedModel, missing: Any) -> None:
    import torch

    dense = next((name for name in missing if name.endswith("transform.dense.weight")), None)
    if dense is not None:
        with torch.no_grad():
            weight = model.get_parameter(dense)
            weight.copy_(torch.eye(*weight.shape, dtype=weight.dtype))


def output_embeddings(model: PreTrainedModel) -> Tensor:
    """Return the (words, d) matrix that turns states into word scores."""
    return cast("Tensor", cast(Any, model).get_output_embeddings().weight)


def prediction_head(model: PreTrainedModel) -> Any:
    """Return the module of a masked model that turns states into word scores.

    Raises:
        ConfigurationError: If the architecture is not known to have one.
    """
    for name in ("cls", "lm_head"):
        head = getattr(model, name, None)
        if head is not None:
            return head
    raise ConfigurationError(
        f"model: expected a masked language model of the BERT or RoBERTa family, found {type(model).__name__}"
    )
