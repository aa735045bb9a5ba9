"""Settings of labelling with an LLM, and what it reports: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.ranges import check_share
from llama_index_instruct.spans import Count
from llama_index_instruct.teacher.prompts import CLASSIFY, CLASSIFY_AGAIN, NAME_CLUSTER, SUMMARISE, Prompt
from llama_index_instruct.teacher.usage import Prices, Usage


@dataclass(frozen=True)
class LabelSettings:
    """How labels are made from an instruction; defaults as released by the paper's authors where they say.

    Attributes:
        clusters: Groups of summaries, k; half the texts where there are fewer than twice as many.
        shown: Summaries shown per cluster, and from the others, when it is named.
        merge_above: Names whose embeddings have a cosine above this are one category; None = only names that are equal but for
            case and spaces.
        max_chars: Longest text shown to the LLM; the rest is cut.
        least_share: Share of texts that must get a label, else it is an error.
        seed: Of clustering and of the summaries shown.
        prompts: The four questions; a new one gets a new version by itself.

    Raises:
        ConfigurationError: If a value is out of range.
    """

    clusters: int = 50
    shown: int = 25
    merge_above: float | None = 0.9
    max_chars: int = 4000
    least_share: float = 0.5
    seed: int = 42
    summarise: Prompt = SUMMARISE
    name_cluster: Prompt = NAME_CLUSTER
    classify: Prompt = CLASSIFY
    classify_again: Prompt = CLASSIFY_AGAIN

    def __post_init__(self) -> None:
        for name, least in (("clusters", 2), ("shown", 1), ("max_chars", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name}: expected {least} or more, found {getattr(self, name)}")
        if self.merge_above is not None and not 0.0 < self.merge_above <= 1.0:
            raise ConfigurationError(f"merge_above: expected above 0 up to 1, or None, found {self.merge_above}")
        check_share(self, "least_share")


@dataclass(frozen=True)
class LabellingReport:
    """What labelling did and what it lost.

    Attributes:
        source: Where the labels come from: ``"llm"``, ``"given"``, ``"metadata"`` or ``"clusters"``.
        texts: How many were to be labelled.
        labelled: How many were.
        categories: Names offered to the texts, after merging.
        merged: Names that went into another one.
        without_summary: Texts whose summary was refused or failed; they are classified all the same.
        unnamed_clusters: Clusters whose name was refused or failed.
        invalid: First answers that were not in the list.
        healed: Of these, how many a second question put right.
        nearest: Of these, how many took the name nearest to their summary.
        dropped: Texts left without a label.
        failed_calls: Questions without any answer, whatever the reason.
        usage: Of the LLM.
        prompts: Versions of the prompts.
    """

    source: str
    texts: int
    labelled: int
    categories: tuple[str, ...] = ()
    merged: int = 0
    without_summary: int = 0
    unnamed_clusters: int = 0
    invalid: int = 0
    healed: int = 0
    nearest: int = 0
    dropped: int = 0
    failed_calls: int = 0
    usage: Usage = field(default_factory=Usage)
    prompts: dict[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, Count]:
        """Return its source and its numbers, for traces; names of categories are an LLM's words and stay out."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        numbers = {name: value for name, value in values.items() if isinstance(value, int)}
        return {"source": self.source, **numbers, "categories": len(self.categories), **self.usage.counts}

    def __str__(self) -> str:
        """Return it in a sentence or two."""
        words = f"{self.labelled} of {self.texts} texts labelled ({self.source})"
        if self.source != "llm":
            return words
        lost = (
            (self.without_summary, "without a summary"),
            (self.unnamed_clusters, "clusters without a name"),
            (self.merged, "names merged"),
            (self.invalid, "answers not in the list"),
            (self.healed, "of them healed by asking again"),
            (self.nearest, "of them given the nearest name"),
            (self.dropped, "texts dropped"),
            (self.failed_calls, "questions unanswered"),
        )
        detail = ", ".join(f"{count} {what}" for count, what in lost if count)
        cost = f"{self.usage.calls} calls, {self.usage.tokens} tokens, {self.usage.cached} answers from the checkpoint"
        return f"{words} into {len(self.categories)} categories; {detail or 'nothing lost'}; {cost}"


@dataclass(frozen=True)
class LabellingEstimate:
    """What labelling will cost, known before the first call; four characters count as a token.

    Attributes:
        calls: Questions, answers already paid for left out.
        prompt_tokens: To be read.
        completion_tokens: To be written.
    """

    calls: int
    prompt_tokens: int
    completion_tokens: int

    def cost(self, prices: Prices) -> float:
        """Return it in money."""
        return prices.cost(Usage(prompt_tokens=self.prompt_tokens, completion_tokens=self.completion_tokens))
