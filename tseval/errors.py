"""The exceptions that tseval raises, and the exit code each one ends a command with.

TsevalError                     1  something failed
+-- ConfigError                 2  wrong usage, configuration, card or file
|   +-- UnknownName             2  no such benchmark, judge, backend ... (near misses suggested)
|   +-- PluginError             2  a plugin is broken, clashes or misspells a hook
+-- DataError                   1  a dataset is missing, gated, unreachable or has a broken row
+-- BackendError                1  a model could not be loaded or reached
|   +-- BackendUnavailable      1  ... and no further request can succeed: the run stops
|   +-- RequestFailed           -  one request failed: a recorded failure, the run goes on
|   +-- RowSkipped              -  a row that the model's context has no room for: counted
+-- CapabilityMissing           5  the backend cannot do what a benchmark needs
+-- JournalError                1  the run's record cannot be read or written
+-- TrainingError               1  a training that cannot go on: nothing to learn from, no memory
+-- StatisticsError             1  a statistic is undefined for the data given
+-- NotComparable               4  two numbers that do not share a protocol
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class TsevalError(Exception):
    """Base of every error that tseval raises on purpose.

    Args:
        message: What happened and what was expected, one or two lines, no full stop.
        hint: What to do next; printed on a line of its own after ``hint:``.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Subclasses take further keyword arguments; the instance's dictionary carries them all.
        return (_rebuild, (type(self), self.__dict__))


def _rebuild(kind: type[TsevalError], state: dict[str, object]) -> TsevalError:
    error = kind.__new__(kind)
    Exception.__init__(error, state["message"], state["hint"])
    error.__dict__.update(state)
    return error


class ConfigError(TsevalError):
    """Wrong usage or configuration: a flag, a configuration file, a card."""

    exit_code = 2


class UnknownName(ConfigError, LookupError):
    """A name that nothing is registered under.

    Args:
        kind: What was looked for, in the singular: 'judge', 'benchmark'.
        name: The name given.
        known: The names that exist; near misses among them are suggested.
        hint: Replaces the default hint.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], *, hint: str = "") -> None:
        known = sorted(known)
        shown = ", ".join(known) if len(known) <= 12 else ", ".join(known[:12]) + ", ..."
        near = get_close_matches(name, known, n=2, cutoff=0.6)
        suggestion = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
        super().__init__(
            f"unknown {kind} {name!r} (known: {shown or 'none'})",
            hint=hint or f"{suggestion}see `tseval ls {kind}s`",
        )
        self.kind = kind
        self.name = name


class PluginError(ConfigError):
    """A plugin that cannot be imported, clashes with another, or misspells a hook.

    Attributes:
        plugin: The plugin's name (entry point or module).
    """

    def __init__(self, message: str, *, plugin: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.plugin = plugin


class DataError(TsevalError):
    """A dataset that is missing, gated, unreachable, or has a row that cannot be read."""


class BackendError(TsevalError):
    """A model that could not be loaded, reached, or made to answer."""


class BackendUnavailable(BackendError):
    """The backend is gone for good: no further request can succeed, the run stops."""


class RequestFailed(BackendError):
    """One request failed after its retries. Recorded as a failure, retried on resume.

    Attributes:
        kind: 'timeout', 'server', 'refused', 'malformed', 'overlong' or 'engine'; counted by
            this word.
    """

    def __init__(self, message: str, *, kind: str = "engine", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


class RowSkipped(BackendError):
    """A row for which fewer than 256 tokens of the context are left: excluded and counted."""


class CapabilityMissing(TsevalError):
    """The backend lacks something that a benchmark needs; the benchmark is skipped."""

    exit_code = 5


class JournalError(TsevalError):
    """A run's record that cannot be read, written or locked."""


class TrainingError(TsevalError):
    """A training that cannot begin or go on; what was gathered and the checkpoints are kept."""


class StatisticsError(TsevalError):
    """A statistic that is undefined for the data given, such as a rate of nothing."""


class NotComparable(TsevalError):
    """Two numbers that were measured under different protocols."""

    exit_code = 4
