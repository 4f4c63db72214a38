"""The policy of a gate: which numbers, and how much worse each may become."""

from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, field

from .errors import ConfigError
from .files import BROKEN, read_toml


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[metric]]`` of a policy.

    Attributes:
        benchmark, metric: Which number; a benchmark of '*' is every one that has the metric.
        judge: Under which judge; '' needs the runs to have one alone.
        group: Which part of the benchmark; '' is the whole.
        margin: Largest worsening that is still acceptable, in the metric's own unit (0.05 is five
            points of a share); above 0.
        worse: 'up' or 'down' for a metric that has no better end of its own.
        excluded: Overrides the policy's for this number; probes exclude prompts by design.
    """

    metric: str
    margin: float
    benchmark: str = "*"
    judge: str = ""
    group: str = ""
    worse: Literal["", "up", "down"] = ""
    excluded: float | None = None


class Policy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``gate.toml``.

    Attributes:
        metrics: What is looked at.
        alpha: One-sided level, in (0, 0.5).
        cannot_tell: What it counts as when nobody can tell.
        excluded: Share of excluded rows above which a metric passes on its worst case only.
        excluded_rise: Rise of that share above which it does as well.
        allow: Fields of the protocol that may differ.
    """

    metrics: tuple[Rule, ...] = field(name="metric")
    alpha: float = 0.05
    cannot_tell: Literal["pass", "fail"] = "fail"
    excluded: float = 0.02
    excluded_rise: float = 0.02
    allow: tuple[str, ...] = ()


def read_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
        ConfigError: The file is missing or broken, or a value makes no sense.
    """
    hint = "see docs/how-to/gate-a-merge.md for a policy that works"
    fields = read_toml(path, "policy", hint)
    try:
        policy = msgspec.convert(fields, type=Policy)
    except BROKEN as error:
        raise ConfigError(f"{path} is no policy: {error}", hint=hint) from error
    if not policy.metrics:
        raise ConfigError(f"{path} names no [[metric]]: a gate that cannot fail", hint=hint)
    for name in ("excluded", "excluded_rise"):
        shares = [getattr(policy, name), *(getattr(rule, name, None) for rule in policy.metrics)]
        if not all(share is None or 0 <= share <= 1 for share in shares):
            raise ConfigError(f"{path}: {name} is a share from 0 to 1; 0.02 is two percent")
    if not 1e-6 <= policy.alpha < 0.5:
        raise ConfigError(f"{path}: alpha is {policy.alpha}, expected a number from 1e-6 to 0.5")
    for rule in policy.metrics:
        if not 0 < rule.margin < float("inf"):
            raise ConfigError(
                f"{path}: the margin of {rule.metric} is {rule.margin}, and no run can show that it"
                " is no worse at all",
                hint="give the largest worsening that you would accept, such as 0.05",
            )
    return policy
