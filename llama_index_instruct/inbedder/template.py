"""Instruction and text -> the string the model reads."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llama_index_instruct.errors import ConfigurationError

_SLOT = re.compile(r"\{(input|instruction)\}")


@dataclass(frozen=True)
class PromptTemplate:
    """A pattern with the slots ``{input}`` and ``{instruction}``, each exactly once.

    The slots are filled in one step, so braces or slot names inside a text are only text.

    Args:
        pattern: For example ``INBEDDER``, the pattern the published checkpoints were trained with.

    Raises:
        ConfigurationError: If a slot is missing or occurs twice.
    """

    pattern: str

    def __post_init__(self) -> None:
        slots = sorted(_SLOT.findall(self.pattern))
        if slots != ["input", "instruction"]:
            raise ConfigurationError(
                f"template: expected {{input}} and {{instruction}} once each, found {self.pattern!r}"
            )

    def fill(self, text: str, instruction: str) -> str:
        """Return the prompt for one text."""
        values = {"input": text, "instruction": instruction}
        return _SLOT.sub(lambda slot: values[slot.group(1)], self.pattern)


INBEDDER = "### Input:\n{input}\n\n### Instruction:\n{instruction}\n\n### Response:"
"""What the InBedder checkpoints read (input first), causal and masked ones; also ours for sequence-to-sequence models."""

CHAT = (
    "[INST] Answer the instruction about the input in a few words.\n\n"
    "Input: {input}\n\nInstruction: {instruction}\n\nAnswer: [/INST]"
)
"""For chat models of the Llama-2 family that were not trained for InBedder."""

TEMPLATES = {"inbedder": INBEDDER, "chat": CHAT}


def find_template(name: str) -> PromptTemplate:
    """Return the template of this name, or the pattern itself as a template."""
    return PromptTemplate(TEMPLATES.get(name, name))
