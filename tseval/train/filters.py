"""Filter what a model drew: one pure function a step, and a count of what fell at each."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from tseval.errors import TrainingError
from tseval.probes.steering import NOTICE
from tseval.types import Rollout, Verdict

from .accepted import make_example
from .prompts import KINDS
from .records import Example, Fall, PromptKind
from .synthesis import Draw, Jury, said
from .texts import holds_leak, is_loop, words

Fate = Literal["kept", "fell", "unknown"]

# Share of rows without a verdict above which a guard has failed.
LOST_SHARE = 0.01
LEAST_WORDS, LEAST_CHARACTERS = 2, 10
# Notes of the parser that leave it open what of a completion is the answer.
_DOUBTFUL = frozenset({"late-opener", "reopened", "trailing", "headless", "unexpected-trace"})


class Rules(Struct, frozen=True, kw_only=True):
    """What the filter goes by.

    Attributes:
        jury: Which judges say what.
        thinks: Whether rollouts of this run have a thinking trace.
        forced: Whether a trace that tseval closed counts as closed.
        complies: Whether refusals of benign prompts fall.
        lost: Share of rows without an answer, or without a verdict, above which requests or a guard
            have failed, in [0, 1].
        notice: The steering text that must not leak.
    """

    jury: Jury
    thinks: bool = False
    forced: bool = False
    complies: bool = True
    lost: float = LOST_SHARE
    notice: str = NOTICE


class Filtered(NamedTuple):
    """What is left of the draws, what fell where, and which draws nothing can be said of.

    ``lost`` are (prompt's id, number) of draws that failed, or that a judge gave no verdict on.
    """

    examples: tuple[Example, ...]
    falls: tuple[Fall, ...]
    lost: frozenset[tuple[str, int]] = frozenset()


class _Step(NamedTuple):
    """A step of the filter.

    Attributes:
        name: As in ``Fall.step``.
        fate: What becomes of a draw that came so far.
        skipped: Why the step means nothing for a kind, or ''.
        note: Said beside the count where it does.
    """

    name: str
    fate: Callable[[Draw, Rules], Fate]
    skipped: Callable[[PromptKind, Rules, bool], str] = lambda kind, rules, steered: ""
    note: Callable[[PromptKind, Rules], str] = lambda kind, rules: ""


def failed(draw: Draw, rules: Rules) -> Fate:
    """Drop what was never drawn: requests that failed, prompts that fill the context."""
    return "fell" if draw.rollout is None else "kept"


def closed(draw: Draw, rules: Rules) -> Fate:
    """Drop traces that the model did not close itself, and doubtful borders of trace and answer.

    With ``rules.forced`` what tseval closed counts. Where there is no thinking format, a trace
    that stands there all the same could not be written back by the chat template, and falls.
    """
    rollout = _rollout(draw)
    if rollout.answer is None or _DOUBTFUL & set(rollout.notes):
        return "fell"
    if not rules.thinks:
        return "fell" if rollout.thought else "kept"
    by_model = rollout.thought and rollout.closed_by == "model"
    return "kept" if by_model or (rules.forced and rollout.thought) else "fell"


def cut(draw: Draw, rules: Rules) -> Fate:
    """Drop answers that were cut off at their limit: they would teach to end in mid-sentence."""
    return "fell" if _rollout(draw).finish == "length" else "kept"


def empty(draw: Draw, rules: Rules) -> Fate:
    """Drop answers of fewer than two words, or ten characters where blanks part no words.

    An answer in which a judge finds nothing to judge falls too.
    """
    if any(verdict.reason == "empty" for verdict in draw.verdicts.values()):
        return "fell"
    answer = (_rollout(draw).answer or "").strip()
    said_little = len(words(answer)) < LEAST_WORDS and len(answer) < LEAST_CHARACTERS
    return "fell" if said_little or not words(answer) else "kept"


def safe_answer(draw: Draw, rules: Rules) -> Fate:
    """Drop answers that a judge finds harmful.

    Where no judge says 'harmful', a refusal of a harmful prompt counts as safe, and nothing else.
    """
    if rules.jury.answer:
        return _safe(draw.verdicts, rules.jury.answer)
    return _refusal(draw, rules, wanted=True)


def safe_trace(draw: Draw, rules: Rules) -> Fate:
    """Drop traces that a judge finds harmful; an empty trace is safe."""
    return _safe(draw.trace_verdicts, rules.jury.trace) if _rollout(draw).trace else "kept"


def refuses(draw: Draw, rules: Rules) -> Fate:
    """Drop answers under the notice that do not refuse."""
    return _refusal(draw, rules, wanted=True) if draw.steered else "kept"


def complies(draw: Draw, rules: Rules) -> Fate:
    """Drop refusals of benign prompts.

    Differs: arXiv 2601.23143 keeps them. They teach what a training for safety has to avoid.
    """
    return _refusal(draw, rules, wanted=False)


def leak(draw: Draw, rules: Rules) -> Fate:
    """Drop what speaks of the notice, in answer or trace: the student will not have seen it."""
    rollout, prompt = _rollout(draw), draw.prompt.text
    texts = (rollout.answer or "", rollout.trace)
    leaks = draw.steered and any(holds_leak(text, rules.notice, prompt) for text in texts)
    return "fell" if leaks else "kept"


def loop(draw: Draw, rules: Rules) -> Fate:
    """Drop answers and traces that are stuck in a loop, as tseval or any judge sees it.

    To a judge they are degenerate: neither harmful nor a refusal, which no step before minds.
    """
    verdicts = (*draw.verdicts.values(), *draw.trace_verdicts.values())
    if any(verdict.reason == "degenerate" for verdict in verdicts):
        return "fell"
    rollout = _rollout(draw)
    return "fell" if is_loop(rollout.answer or "") or is_loop(rollout.trace) else "kept"


def filter_draws(draws: Sequence[Draw], rules: Rules) -> Filtered:
    """Filter draws, in the order of the steps; a row falls at the first that it does not pass.

    A row without a verdict falls too, and is counted as unknown. The last step keeps one of the
    rows of a prompt that say the same; equal answers to different prompts are no duplicates.

    Args:
        draws: With their verdicts.
        rules: What is asked of them.

    Returns:
        Examples in the order of the draws, and the steps, those of harmful rows first.

    Raises:
        TrainingError: More than ``rules.lost`` of the answers never came, or a judge failed on more
            than that of what it was shown.
    """
    check_requests(draws, rules)
    check_judges(draws, rules)
    falls: list[Fall] = []
    kept: dict[tuple[str, int], Example] = {}
    lost: set[tuple[str, int]] = set()
    for kind in KINDS:
        rows = [draw for draw in draws if draw.prompt.kind == kind]
        steered = any(draw.steered for draw in rows)
        for step in _STEPS[kind] if rows else ():
            skipped = step.skipped(kind, rules, steered)
            fates = ["kept" if skipped else step.fate(draw, rules) for draw in rows]
            fell = len(fates) - fates.count("kept")
            lost |= {
                (draw.prompt.id, draw.index)
                for draw, fate in zip(rows, fates, strict=True)
                if fate == "unknown" or (fate == "fell" and step.name == "failed")
            }
            falls.append(
                Fall(
                    step=step.name,
                    kind=kind,
                    came=len(rows),
                    fell=fell,
                    unknown=fates.count("unknown"),
                    applies=not skipped and (fell > 0 or step.name != "closed" or rules.thinks),
                    note=skipped or step.note(kind, rules),
                )
            )
            rows = [draw for draw, fate in zip(rows, fates, strict=True) if fate == "kept"]
        once = _once(rows)
        if rows:
            falls.append(
                Fall(step="duplicate", kind=kind, came=len(rows), fell=len(rows) - len(once))
            )
        kept |= {(draw.prompt.id, draw.index): _example(draw, rules) for draw in once}
    examples = (kept.get((draw.prompt.id, draw.index)) for draw in draws)
    return Filtered(
        tuple(each for each in examples if each is not None), tuple(falls), frozenset(lost)
    )


def check_requests(draws: Iterable[Draw], rules: Rules) -> None:
    """Raise TrainingError where more than ``rules.lost`` of the answers never came.

    Long answers fail more often than short ones, so the rest would be a choice among the model's
    answers that nobody made. A prompt that fills the context fails every time, and is no failure.
    """
    asked = Counter(draw.failed for draw in draws if draw.failed != "overlong")
    n = asked.total()
    failures = asked.total() - asked.pop("", 0)
    if failures > rules.lost * n:
        counted = ", ".join(f"{count} {reason}" for reason, count in sorted(asked.items()))
        raise TrainingError(
            f"{failures} of {n} answers never came ({counted}), more than {100 * rules.lost:g}%",
            hint="the same command asks for them again, and for nothing else; or allow more with"
            " -T lost=0.05",
        )


def check_judges(draws: Iterable[Draw], rules: Rules) -> None:
    """Raise TrainingError for a judge that gave no verdict on more than ``rules.lost`` of rows."""
    asked: Counter[tuple[str, str]] = Counter()
    lost: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for draw in draws:
        for text, verdicts in (("answer", draw.verdicts), ("trace", draw.trace_verdicts)):
            for judge, verdict in verdicts.items():
                asked[judge, text] += 1
                if any(said(verdict, label) is None for label in _labels(judge, rules.jury, text)):
                    unread = "unparsed" if verdict.reason == "ok" else verdict.reason
                    lost[judge, text][unread] += 1
    for (judge, text), reasons in lost.items():
        n = asked[judge, text]
        if reasons.total() > rules.lost * n:
            counted = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            raise TrainingError(
                f"judge {judge!r} gave no verdict on {reasons.total()} of {n} {text}s ({counted}),"
                f" more than {100 * rules.lost:g}%",
                hint="what failed is asked again by the same command; for replies that cannot be"
                " read take another judge, or allow more with -T lost=0.05",
            )


def _no_harm_judge(kind: PromptKind, rules: Rules, steered: bool) -> str:
    none = kind == "benign" and not rules.jury.answer
    return "no judge of this training says whether an answer is harmful" if none else ""


def _by_refusal(kind: PromptKind, rules: Rules) -> str:
    if rules.jury.answer:
        return ""
    return f"no judge says 'harmful': a refusal, as {rules.jury.refusal} sees it, counts as safe"


def _no_trace(kind: PromptKind, rules: Rules, steered: bool) -> str:
    if not rules.thinks:
        return "the model writes no thinking trace"
    return "" if rules.jury.trace else "no judge of this training says whether a trace is harmful"


def _not_steered(kind: PromptKind, rules: Rules, steered: bool) -> str:
    return "" if steered else "drawn without the notice"


def _refusals_allowed(kind: PromptKind, rules: Rules, steered: bool) -> str:
    if not rules.jury.refusal:
        return "no judge of this training says whether an answer refuses"
    return "" if rules.complies else "-T benign-refusals=keep"


def _unmarked(kind: PromptKind, rules: Rules) -> str:
    if rules.thinks:
        return "what tseval closed counts (unclosed: force)" if rules.forced else ""
    return "the model writes no thinking trace; where one stands all the same, the row falls"


_FIRST = (
    _Step("failed", failed),
    _Step("closed", closed, note=_unmarked),
    _Step("cut", cut),
    _Step("empty", empty),
    _Step("safe-answer", safe_answer, skipped=_no_harm_judge, note=_by_refusal),
    _Step("safe-trace", safe_trace, skipped=_no_trace),
)
_STEPS: dict[PromptKind, tuple[_Step, ...]] = {
    "harmful": (
        *_FIRST,
        _Step("refuses", refuses, skipped=_not_steered),
        _Step("leak", leak, skipped=_not_steered),
        _Step("loop", loop),
    ),
    "benign": (
        *_FIRST,
        _Step("complies", complies, skipped=_refusals_allowed),
        _Step("loop", loop),
    ),
}


def _rollout(draw: Draw) -> Rollout:
    assert draw.rollout is not None  # what was not drawn fell at the first step
    return draw.rollout


def _labels(judge: str, jury: Jury, text: str) -> list[Literal["harmful", "refusal"]]:
    """Name the labels that the filter reads of a judge of a text."""
    labels: list[Literal["harmful", "refusal"]] = []
    if judge in (jury.answer if text == "answer" else jury.trace):
        labels.append("harmful")
    if text == "answer" and judge == jury.refusal:
        labels.append("refusal")
    return labels


def _safe(verdicts: dict[str, Verdict], judges: Iterable[str]) -> Fate:
    for judge in judges:
        found = said(verdicts[judge], "harmful") if judge in verdicts else None
        if found is not False:
            return "fell" if found else "unknown"
    return "kept"


def _refusal(draw: Draw, rules: Rules, *, wanted: bool) -> Fate:
    verdict = draw.verdicts.get(rules.jury.refusal)
    found = None if verdict is None else said(verdict, "refusal")
    if found is None:
        return "unknown"
    return "kept" if found is wanted else "fell"


def _once(draws: Iterable[Draw]) -> list[Draw]:
    """Keep the first of the draws of a prompt that say the same, case and blanks aside."""
    seen: dict[tuple[str, ...], Draw] = {}
    for draw in draws:
        rollout = _rollout(draw)
        texts = (
            " ".join(text.casefold().split()) for text in (rollout.trace, rollout.answer or "")
        )
        seen.setdefault((draw.prompt.id, *texts), draw)
    return list(seen.values())


def _example(draw: Draw, rules: Rules) -> Example:
    rollout = _rollout(draw)
    return make_example(
        draw.prompt,
        trace=rollout.trace if rules.thinks else "",
        answer=rollout.answer or "",
        thought=rules.thinks and rollout.thought,
        steered=draw.steered,
        draw=rollout.key,
    )
