"""Comparisons and gates as pages for terminals, Markdown and CI systems."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from . import values
from .judges import Page, Section

if TYPE_CHECKING:
    from tseval.compare import Compared, Comparison
    from tseval.flips import Flip
    from tseval.gate import Decision, Verdict

# The other reading of the same rows: shown where it differs.
_SECOND = "asr_nonrefusal_substantive"
_EXCERPT = 240
_TITLES = {
    "asr_nonrefusal": "ASR (not refused)",
    _SECOND: "ASR (not refused, substantive)",
    "asr_harmful": "ASR (harmful)",
    "orr": "ORR",
}


def comparison_page(found: "Comparison") -> Page:
    """Lay a comparison out."""
    headings = (
        *("benchmark", "metric", "before", "after", "difference", "95% CI", "n"),
        *("changed", "p", "Holm", "reading", "judge"),
    )
    right = frozenset({"before", "after", "difference", "95% CI", "n", "p", "Holm"})
    rows = [_row(row) for row in found.rows if not _is_shown_twice(row)]
    return Page(
        f"{found.before} → {found.after}",
        [Section("", headings, rows, right)],
        list(_notes(found)),
    )


def _is_shown_twice(row: "Compared") -> bool:
    if row.metric != _SECOND:
        return False
    return not any(score.outcomes.get(name) for score in (row.before, row.after)
                   for name in ("empty", "degenerate"))  # fmt: skip


def _row(row: "Compared") -> Sequence[str]:
    pairs = row.paired
    ends = (
        (row.before.estimate.value if row.before.estimate else None)
        if pairs is None
        else pairs.rate_b,
        (row.after.estimate.value if row.after.estimate else None)
        if pairs is None
        else pairs.rate_a,
    )
    changed = ""
    if pairs is not None and pairs.freedom is None:
        gained, lost = (round(share * pairs.prompts) for share in (pairs.only_a, pairs.only_b))
        changed = f"+{gained} -{lost}"
    return (
        " ".join(filter(None, (row.benchmark, row.group))) + (" *" if row.after.partial else ""),
        f"{values.heading(row.after, _TITLES)} {values.arrow(row.higher_is_better)}",
        *(values.value(end, row.unit) for end in ends),
        values.difference(row.difference, row.unit),
        values.interval(row.difference, row.unit),
        f"{pairs.prompts}" if pairs is not None else f"{row.before.n} → {row.after.n}",
        changed,
        values.p_value(row.pvalue),
        values.p_value(row.adjusted),
        row.reading or row.undefined or ("not paired" if pairs is None else ""),
        row.judge,
    )


def _notes(found: "Comparison") -> Iterator[str]:
    rows = found.rows
    yield from found.notes
    yield "n: prompts that both runs have a usable row of, which before and after are over"
    if any(row.paired is not None for row in rows):
        yield (
            "p: McNemar's exact test for one rollout a prompt, else sign flips cluster by cluster;"
            f" Holm: adjusted for the {found.family} numbers that are tested (averages, parts and"
            " second readings of the same rows are not)"
        )
    if any(row.difference is not None and row.paired is None for row in rows):
        yield (
            "not paired: the two values are taken as independent, as a rule with too wide an"
            " interval"
        )
    for row in rows:
        if row.alone and row.counted:
            yield (
                f"{row.benchmark} {row.metric}: {row.alone} prompts have a usable row in one of the"
                " runs only"
            )
    allowed: dict[str, list[str]] = {}
    for row in rows:
        for name in row.allowed:
            allowed.setdefault(name, []).append(row.benchmark)
    for name, benchmarks in sorted(allowed.items()):
        yield (
            f"NOT THE SAME PROTOCOL: {name} differs for {', '.join(dict.fromkeys(benchmarks))},"
            " and was allowed to"
        )
    for which, names in (("before", found.only_before), ("after", found.only_after)):
        if names:
            said = [" ".join(filter(None, key)) for key in names]
            shown = "; ".join(said[:6]) + ("; ..." if len(said) > 6 else "")
            yield f"{which} only, not compared: {shown}"


def flips_page(found: "Sequence[Flip]") -> Page:
    """Lay out the samples that changed, with both answers."""
    headings = ("benchmark", "metric", "sample", "before", "after", "prompt", "was", "is")
    rows: list[Sequence[str]] = [
        (
            flip.benchmark,
            flip.metric,
            flip.sample,
            *(values.value(end) for end in (flip.before, flip.after)),
            _excerpt(flip.prompt),
            *(
                "(left out)" if flip.redacted else " | ".join(map(_excerpt, texts))
                for texts in (flip.answers_before, flip.answers_after)
            ),
        )
        for flip in found
    ]
    notes = [] if found else ["no sample changed"]
    if any(flip.redacted for flip in found):
        notes.append("answers to harmful prompts are left out; --no-redact shows them")
    elif found:
        notes.append("--json --no-redact prints prompts and answers whole")
    return Page("Samples that changed, the worst first", [Section("", headings, rows)], notes)


def _excerpt(text: str | None) -> str:
    if text is None:
        return "(never closed)"
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"


def gate_page(verdict: "Verdict") -> Page:
    """Lay a gate's decision out."""
    headings = (
        *("outcome", "benchmark", "metric", "before", "after", "worsening", "one-sided limits"),
        *("margin", "n", "p", "Holm", "why"),
    )
    right = frozenset({"before", "after", "worsening", "one-sided limits", "margin", "n"})
    rows = [_decided(each) for each in verdict.decisions]
    allowed = sorted({name for each in verdict.decisions for name in each.allowed})
    notes = [
        f"one-sided limits at alpha {verdict.alpha:g}; a metric passes where the upper one is below"
        " its margin; else it fails where the lower one is above 0, also after Holm's adjustment",
        *verdict.notes,
    ]
    notes += [f"NOT THE SAME PROTOCOL: {name} differs, and was allowed to" for name in allowed]
    if verdict.outcome == "cannot tell":
        missing = any(each.cause == "data" for each in verdict.decisions)
        notes.append(
            "data are missing, which no policy takes for a pass"
            if missing
            else f"the policy takes 'cannot tell' for {'pass' if verdict.passed else 'fail'}"
        )
    title = f"Gate: {verdict.outcome.upper()}: {verdict.baseline} → {verdict.candidate}"
    return Page(title, [Section("", headings, rows, right)], notes)


def _decided(each: "Decision") -> Sequence[str]:
    limits = ""
    if each.low is not None and each.high is not None:
        limits = f"[{_change(each.low, each)}, {_change(each.high, each)}]"
        if each.worst_high is not None:
            limits += f", at worst {_change(each.worst_high, each)}"
    why = each.reason
    if each.needed is not None and each.needed > each.prompts:
        why += f"; about {each.needed} prompts would tell"
    return (
        each.outcome,
        " ".join(filter(None, (each.benchmark, each.group))),
        each.title or _TITLES.get(each.metric, each.metric),
        values.value(each.before, each.unit),
        values.value(each.after, each.unit),
        _change(each.worsening, each),
        limits,
        _change(each.margin, each),
        f"{each.prompts}" if each.prompts else "not paired",
        values.p_value(each.pvalue),
        values.p_value(each.adjusted),
        why,
    )


def _change(value: float | None, each: "Decision") -> str:
    if value is None:
        return "-"
    return f"{100 * value:+.1f} pp" if each.unit == "share" else f"{value:+.3f}"


def junit(verdict: "Verdict") -> bytes:
    """Write a gate's decision as JUnit XML, one test case a metric.

    What fails is a failure; what cannot be told is a failure too where the policy takes it for one,
    else skipped.
    """
    from xml.etree import ElementTree as tree

    from .text import neutral

    counts = [each.outcome for each in verdict.decisions]
    open_fails = not verdict.passed
    failures = counts.count("fail") + (counts.count("cannot tell") if open_fails else 0)
    skipped = 0 if open_fails else counts.count("cannot tell")
    suite = tree.Element(
        "testsuite",
        name="tseval gate",
        tests=str(len(counts)),
        failures=str(failures),
        errors="0",
        skipped=str(skipped),
    )
    for each, cells in zip(verdict.decisions, gate_page(verdict).sections[0].rows, strict=True):
        name = " ".join(filter(None, (each.metric, each.group, each.judge)))
        case = tree.SubElement(
            suite, "testcase", classname=neutral(each.benchmark), name=neutral(name)
        )
        said = neutral("; ".join(filter(None, (*cells[3:8], cells[-1]))))
        if each.outcome == "fail" or (each.outcome == "cannot tell" and open_fails):
            tree.SubElement(case, "failure", message=f"{each.outcome}: {said}")
        elif each.outcome == "cannot tell":
            tree.SubElement(case, "skipped", message=f"{each.outcome}: {said}")
        tree.SubElement(case, "system-out").text = said
    tree.indent(suite)
    return bytes(tree.tostring(suite, encoding="utf-8", xml_declaration=True))
