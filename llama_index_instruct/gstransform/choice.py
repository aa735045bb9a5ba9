"""Several transforms over one collection, one chosen per query."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llama_index.core.schema import QueryBundle

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.gstransform.transform import GSTransform

Transforms = GSTransform | str | Path | Mapping[str, GSTransform | str | Path]
Choose = Callable[[QueryBundle], str]


@dataclass(frozen=True, eq=False)
class TransformChoice:
    """The transforms a door has, and how it picks one.

    Attributes:
        transforms: By name; a single one is named "".
        choose: Query -> name; needed only where there are several.
    """

    transforms: Mapping[str, GSTransform]
    choose: Choose | None = None

    @classmethod
    def of(cls, transforms: Transforms, choose: Choose | None) -> TransformChoice:
        """Return the choice among transforms, given as objects or as folders of saved ones.

        Raises:
            ConfigurationError: If there is none.
        """
        if isinstance(transforms, Mapping):
            loaded = {name: _loaded(transform) for name, transform in transforms.items()}
        else:
            loaded = {"": _loaded(transforms)}
        if not loaded:
            raise ConfigurationError("transform: expected one or more, found an empty mapping")
        return cls(loaded, choose)

    def pick(self, query: QueryBundle) -> GSTransform:
        """Return the transform for a query.

        Raises:
            ConfigurationError: If there are several and no way to choose, or the name chosen is not among them.
        """
        if self.choose is None:
            if len(self.transforms) > 1:
                names = ", ".join(map(repr, self.transforms))
                raise ConfigurationError(f"choose: expected a function from the query to one of {names}, found none")
            return next(iter(self.transforms.values()))
        return self.named(self.choose(query))

    def named(self, name: str) -> GSTransform:
        """Return the transform of that name.

        Raises:
            ConfigurationError: If there is none.
        """
        if name not in self.transforms:
            raise ConfigurationError(
                f"transform: expected one of {', '.join(map(repr, self.transforms))}, found {name!r}"
            )
        return self.transforms[name]


def _loaded(transform: GSTransform | str | Path) -> GSTransform:
    if isinstance(transform, (str, Path)):
        return GSTransform.from_pretrained(transform)
    if not isinstance(transform, GSTransform):
        raise ConfigurationError(
            f"transform: expected a GSTransform or the folder of a saved one, found {type(transform).__name__}"
        )
    return transform
