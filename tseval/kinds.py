"""The kinds of things that plugins register, each with what an object must have to be one."""

from collections.abc import Callable
from typing import Any

from .cards import Suite
from .formats import FormatFamily
from .measurements import MeasureSpec
from .panels import Panel
from .roles import BackendFactory, JudgeCard, MetricSpec

# Characters with a meaning in specifications such as 'judge@model' or 'panel(a,b)'.
_RESERVED = frozenset(" ,;@()")


def _named(kind: str, *members: str) -> Callable[[Any], str]:
    """Make a validator: the object has a non-empty name and the members of its role.

    A member with a dot, such as 'card.labels', is looked for one level down.
    """

    def validate(value: Any) -> str:
        if isinstance(value, type):
            raise TypeError(f"a {kind} is an object, got the class {value.__name__}")
        holder = getattr(value, "card", value)
        name = getattr(holder, "name", None)
        if not isinstance(name, str) or not name or set(name) & _RESERVED:
            raise TypeError(f"a {kind} needs a name without spaces and ',;@()', got {name!r}")
        missing = [member for member in members if _lacks(value, member)]
        if missing:
            raise TypeError(f"{kind} {name!r} lacks {', '.join(missing)}")
        return name

    return validate


def _lacks(value: Any, member: str) -> bool:
    first, _, rest = member.partition(".")
    return not hasattr(value, first) or bool(rest and _lacks(getattr(value, first), rest))


def _instance(kind: str, *wanted: type) -> Callable[[Any], str]:
    """Make a validator: the object is one of our records, and has a non-empty name."""
    named = _named(kind)
    expected = " or a ".join(each.__name__ for each in wanted)

    def validate(value: Any) -> str:
        if not isinstance(value, wanted):
            raise TypeError(f"a {kind} is a {expected}, got {type(value).__name__}")
        return named(value)

    return validate


def _board_name(value: Any) -> str:
    return str(getattr(value, "name", value))


def _judge_or_panel(value: Any) -> str:
    if isinstance(value, Panel):
        return _named("judge")(value)
    return _named("judge", *_JUDGE_MEMBERS)(value)


_CARD_MEMBERS = tuple(f"card.{name}" for name in JudgeCard.__struct_fields__)
_JUDGE_MEMBERS = ("judge", *_CARD_MEMBERS)
# By the word in ``register_<kind>``: the singular, and what returns an object's name, or raises
# TypeError where it cannot play the role.
KINDS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "suites": ("suite", _instance("suite", Suite)),
    "benchmarks": ("benchmark", _named("benchmark", "card.summary", "run")),
    "judges": ("judge", _judge_or_panel),
    "stance_judges": ("stance-judge", _named("stance-judge", "label", "validated", *_CARD_MEMBERS)),
    "backends": ("backend", _instance("backend", BackendFactory)),
    "trainers": ("trainer", _named("trainer", "card.summary", "card.takes", "gather", "fit")),
    "interventions": ("intervention", _named("intervention", "complete", "identity")),
    "formats": ("format", _instance("format", FormatFamily)),
    "metrics": ("metric", _instance("metric", MetricSpec, MeasureSpec)),
    "leaderboards": ("leaderboard", _board_name),
    "exporters": ("exporter", _named("exporter", "export")),
}
