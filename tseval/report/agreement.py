"""Agreement of a run's judges, and the rollouts that divide them, laid out as tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tseval.report.judges import Page, Section

if TYPE_CHECKING:
    from tseval.judgement.agreement import Agreements, Disagreement, GroupAgreement, PairAgreement
    from tseval.stats_agreement import Agreement

_EXCERPT = 200
# Each with the rollouts that it rests on: Fleiss' kappa drops those with any vote missing.
_COEFFICIENTS = ("Fleiss' kappa", "95% CI", "n", "alpha", "95% CI ", "n ")


def agreements_page(found: "Agreements") -> Page:
    """Lay out pairs and groups of judges."""
    sections: list[Section] = []
    headings: tuple[str, ...]
    if found.pairs:
        headings = ("label", "judges", "", "agree", "of", "missing", "kappa", "95% CI")
        right = frozenset({"agree", "of", "missing", "kappa", "95% CI"})
        sections.append(Section("Pairs", headings, [_pair(pair) for pair in found.pairs], right))
    if found.groups:
        headings = ("label", "judges", *_COEFFICIENTS)
        right = frozenset(_COEFFICIENTS)
        rows: list[Sequence[str]] = [_group(group) for group in found.groups]
        sections.append(Section("Groups", headings, rows, right))
    notes = [
        f"all benchmarks pooled: {found.rollouts} rollouts, clustered by prompt; kappa is Cohen's,"
        " alpha Krippendorff's (nominal); 1 is full agreement, 0 is what chance gives",
    ]
    if not found.pairs:
        notes.append("no two of the judges say the same kind of label")
    notes += [
        f"{pair.first} and {pair.second}: {pair.undefined}"
        for pair in found.pairs
        if pair.undefined
    ]
    notes += [f"{group.name}: {group.undefined}" for group in found.groups if group.undefined]
    return Page("Agreement of the judges", sections, notes)


def disagreements_page(found: "Sequence[Disagreement]") -> Page:
    """Lay out divided votes, the most divided first."""
    headings = ("label", "benchmark", "sample", "votes", "prompt", "answer")
    rows: list[Sequence[str]] = []
    for each in found:
        row, rollout = each.stored.row, each.stored.rollout
        said = " ".join(
            f"{judge}:{'-' if vote is None else 'yes' if vote else 'no'}"
            for judge, vote in each.votes.items()
        )
        sample = row.sample if row.rollout == 0 else f"{row.sample} #{row.rollout}"
        answer = (rollout.answer or "") if rollout is not None else ""
        texts = _excerpt(row.prompt), _excerpt(answer)
        rows.append((each.label, row.benchmark, sample, said, *texts))
    notes = [] if rows else ["none: where two judges or more gave a verdict, they agree"]
    return Page("Rollouts that divide the judges most", [Section("", headings, rows)], notes)


def _pair(pair: "PairAgreement") -> Sequence[str]:
    return (
        pair.label,
        pair.first,
        pair.second,
        f"{100 * pair.same / pair.both:.1f}%" if pair.both else "-",
        str(pair.both),
        str(pair.missing),
        *_coefficient(pair.kappa),
    )


def _group(group: "GroupAgreement") -> Sequence[str]:
    return (
        group.label,
        f"{group.name}: {', '.join(group.judges)}",
        *_coefficient(group.kappa),
        _units(group.kappa),
        *_coefficient(group.alpha),
        _units(group.alpha),
    )


def _units(found: "Agreement | None") -> str:
    return "-" if found is None else str(found.units)


def _coefficient(found: "Agreement | None") -> tuple[str, str]:
    if found is None:
        return "-", "-"
    estimate = found.estimate
    return f"{estimate.value:.3f}", f"[{estimate.low:.3f}, {estimate.high:.3f}]"


def _excerpt(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _EXCERPT else flat[: _EXCERPT - 1] + "…"
