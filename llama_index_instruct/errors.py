"""The exceptions of this package, one tree.

::

    InstructError
    ├── ConfigurationError      (ValueError)   a setting or an input is out of range
    ├── DimensionMismatchError  (ValueError)   two arrays do not fit together
    ├── TransformFileError      (ValueError)   a saved transform is damaged, foreign or incomplete
    ├── IncompatibleStoreError  (ValueError)   vectors come from another embedding model or another distance
    ├── MissingVectorsError     (LookupError)  stored vectors cannot be had
    ├── TeacherError            (RuntimeError) the teacher gave no usable answer
    │   └── JudgementTimeout    (TimeoutError) the teacher was not done by the deadline
    ├── RefinementError         (RuntimeError) a refinement stage failed and on_error="raise"
    ├── LabellingError          (RuntimeError) labels could not be made from an instruction
    ├── CollectionError         (RuntimeError) a collection was not transformed as asked
    └── MissingExtraError       (ImportError)  an optional dependency is not installed

    InstructWarning             (UserWarning)  an optional stage was left out; the result is still valid
"""

from __future__ import annotations

from collections.abc import Sequence


class InstructError(Exception):
    """Root of every exception raised on purpose by this package."""


class ConfigurationError(InstructError, ValueError):
    """A setting or an input is out of range; the message names it, its value and the range."""


class DimensionMismatchError(InstructError, ValueError):
    """Two arrays do not fit together; the message names both shapes."""


class TransformFileError(InstructError, ValueError):
    """A saved transform is damaged, foreign or incomplete; the message names the file."""


class IncompatibleStoreError(InstructError, ValueError):
    """A transform meets vectors of another embedding model or another distance; the message names both."""


class MissingVectorsError(InstructError, LookupError):
    """The stored vectors of some nodes cannot be had.

    Attributes:
        node_ids: The nodes concerned.
    """

    def __init__(self, message: str, node_ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.node_ids = tuple(node_ids)


class TeacherError(InstructError, RuntimeError):
    """The teacher (LLM, reranker, callable) gave no usable answer."""


class JudgementTimeout(TeacherError, TimeoutError):
    """The teacher was not done by the deadline."""


class RefinementError(InstructError, RuntimeError):
    """A stage of refinement failed and ``on_error="raise"`` was set; the cause is chained."""


class LabellingError(InstructError, RuntimeError):
    """Labels could not be made from an instruction; what was paid for is in the checkpoint, if there is one."""


class CollectionError(InstructError, RuntimeError):
    """A collection was not transformed as asked; the source is untouched, and the message says what to do."""


class MissingExtraError(InstructError, ImportError):
    """An optional dependency is not installed.

    Attributes:
        extra: The extra of this package that brings it.
    """

    def __init__(self, needed_for: str, extra: str) -> None:
        super().__init__(f"{needed_for} needs an optional dependency: pip install 'llama-index-instruct[{extra}]'")
        self.extra = extra


class InstructWarning(UserWarning):
    """An optional stage was left out or degraded; the result returned is still a valid ranking."""
