"""Numbers to text: percentages where they are shares, plain numbers where they are not."""

from tseval.types import Estimate, Score, Unit


def value(number: float | None, unit: Unit = "share") -> str:
    """Write one value: '12.3%', or a number with three decimals or as many as say something."""
    if number is None:
        return "-"
    return f"{100 * number:.1f}%" if unit == "share" else _plain(number)


def interval(estimate: Estimate | None, unit: Unit = "share") -> str:
    """Write the limits of an interval in the unit of its value."""
    if estimate is None:
        return ""
    if unit == "share":
        return f"[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
    return f"[{_plain(estimate.low)}, {_plain(estimate.high)}]"


def difference(estimate: Estimate | None, unit: Unit = "share") -> str:
    """Write a difference with its sign; of shares in percentage points."""
    if estimate is None:
        return "-"
    sign = "+" if estimate.value >= 0 else ""
    if unit == "share":
        return f"{sign}{100 * estimate.value:.1f} pp"
    return f"{sign}{_plain(estimate.value)}"


def arrow(better: bool | None) -> str:
    """Say which end of a metric is the better one; '·' where neither is."""
    return "·" if better is None else "↑" if better else "↓"


def p_value(p: float | None) -> str:
    """Write a p-value; a small one as a bound, since its digits say nothing."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def counts(found: dict[str, int]) -> str:
    """Write counts by name."""
    return " ".join(f"{name} {count}" for name, count in found.items())


def heading(score: Score, known: dict[str, str]) -> str:
    """Say what a table calls a metric: its own title, a known one, or its name ('pass@4')."""
    return score.title or known.get(score.metric) or score.metric.replace("_at_", "@")


def _plain(number: float) -> str:
    size = abs(number)
    if size and size < 0.001:
        return f"{number:.1e}"
    return f"{number:.3f}" if size < 10 else f"{number:.2f}" if size < 100 else f"{number:.1f}"
