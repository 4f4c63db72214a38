"""What a completion is worth to GRPO: safety, format, deliberation, and a term for over-refusal.

Everything here is arithmetic on verdicts. A term that nobody could judge is None, and a completion
with such a term has no reward: a judge that fails never counts as 0, which would look like what it
says and move the model.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct, json, structs

from tseval.errors import TrainingError
from tseval.formats import Opening
from tseval.runfolder import write_whole
from tseval.types import Verdict

from .records import PromptKind

# Names under which guards give the probability that an answer is harmful.
_CHANCES = ("p_unsafe", "p_yes")
_NUMBER = re.compile(r"(?:>=|<=)?([01](?:\.\d+)?)")
# Completions without a verdict that are allowed: so many, or above that this share of all.
FEW_LOST = 2
LOST_SHARE = 0.01
# Steps in a row without any difference within a group: after so many it is said, and after so many
# from the start it ends the training.
FLAT_WARN = 3
FLAT_END = 20
# What an alarm remembers over the processes of a training.
_SEEN = ("rows", "lost", "dropped", "unlabelled", "flat", "differed", "said")
# Rewards that differ by less are the same: probabilities are given to four places.
_SAME = 1e-4


class Weights(Struct, frozen=True, kw_only=True):
    """Weights of the terms; 0 leaves one out.

    Source: arXiv 2601.23143 adds safety and format, one each; the other two are not from there.
    """

    safety: float = 1.0
    format: float = 1.0
    deliberation: float = 0.0
    over_refusal: float = 0.0


class Terms(Struct, frozen=True, kw_only=True):
    """What one completion got.

    Attributes:
        safety: Probability that the answer is safe, in [0, 1].
        format: 1 for a trace that is opened and closed as it should be, else 0; None where the
            model has no thinking format.
        deliberation: Rise of right outcomes over the trace, in [-1, 1].
        over_refusal: -1 for a refusal of a benign prompt, else 0.
        lost: Why a term that was wanted is missing: 'error', 'unparsed' ...; '' if none is.
        unlabelled: Whether ``deliberation`` is 0 because too few replays have a label.
    """

    safety: float | None = None
    format: float | None = None
    deliberation: float | None = None
    over_refusal: float | None = None
    lost: str = ""
    unlabelled: bool = False

    def total(self, weights: Weights) -> float | None:
        """Weigh the terms; None where one that was wanted is missing."""
        if self.lost:
            return None
        named = structs.asdict(weights)
        known = {name: value for name in named if (value := getattr(self, name)) is not None}
        return float(sum(named[name] * value for name, value in known.items()))


def safety_of(verdict: Verdict, kind: PromptKind) -> float | None:
    """Read how safe an answer is from a verdict.

    A guard's probability where it gives one, P(safe) / (P(safe) + P(unsafe)); else its label, or a
    panel's share of votes. A judge that only says whether an answer refuses is asked for the right
    outcome instead: 1 for refusing a harmful prompt and for answering a benign one.

    Args:
        verdict: Of one judge.
        kind: The prompt's pool.

    Returns:
        In [0, 1]. 0 for an empty or degenerate answer, which is the model's doing: were it safe,
        saying nothing would be the best policy. None where the judge failed or cannot be read.

    Source: arXiv 2601.23143, its GRPO baseline.
    Differs: There, any failure gives 0 to the whole batch.
    """
    if verdict.reason in ("empty", "degenerate"):
        return 0.0
    if verdict.reason != "ok":
        return None
    if verdict.harmful is not None:
        chance = _chance(verdict)
        if chance is None:
            decides = verdict.soft is not None and verdict.refusal is None
            chance = verdict.soft if decides else float(verdict.harmful)
        return None if chance is None else 1.0 - chance
    if verdict.refusal is None:
        # A panel whose soft votes are equal has no label, whatever it votes about.
        return None if verdict.soft is None else 1.0 - verdict.soft
    refused = float(verdict.refusal) if verdict.soft is None else verdict.soft
    return refused if kind == "harmful" else 1.0 - refused


def _chance(verdict: Verdict) -> float | None:
    """P(harmful) as a guard gave it, or a bound on it; None where it gave none."""
    for name in _CHANCES:
        found = _NUMBER.fullmatch(verdict.details.get(name, ""))
        # A probability that contradicts the label was not what the label was read from.
        if found is not None and (float(found[1]) > 0.5) is verdict.harmful:
            return float(found[1])
    return None


def least_safety(found: Sequence[float | None]) -> float | None:
    """All judges have to find an answer safe: the least of what they say, None if one failed."""
    known = [value for value in found if value is not None]
    return min(known) if known and len(known) == len(found) else None


def format_reward(start: Opening, text: str) -> float | None:
    """Say whether a completion holds just one trace, closed.

    Args:
        start: How the prompt ends.
        text: The completion, special tokens kept, without the end of turn.

    Returns:
        1 if the trace is opened once, at the start, and closed once, behind it; where the prompt
        has opened it, no further opener may stand there. None where there is nothing to open.

    Source: arXiv 2601.23143, its GRPO baseline.
    """
    fmt = start.format
    if not fmt.thinks or start.closed:
        return None
    opener, mark = fmt.opener_mark, fmt.answer_mark
    once = text.count(mark) == 1
    opened = text.count(opener) if opener else 0
    if start.opened:
        return float(once and opened == 0)
    return float(once and opened == 1 and text.lstrip().startswith(opener))


def deliberation_reward(
    kind: PromptKind, before: tuple[int, int], after: tuple[int, int]
) -> float | None:
    """Rise of right outcomes from the beginning of a trace to its end.

    Right is to refuse a harmful prompt and to answer a benign one, so a trace that talks itself
    into refusing a benign prompt loses by as much.

    Args:
        kind: The prompt's pool.
        before: Compliances, and replays with a label, behind the first chunk of the trace.
        after: Likewise behind all of it.

    Returns:
        In [-1, 1]; None where fewer than two replays of a point have a label: the others are empty
        or degenerate, which is the policy's doing. The reward is 0 then, which is what a trace gets
        that moves nothing, and such completions are counted.
    """
    if min(before[1], after[1]) < 2:
        return None
    rates = [comply / n for comply, n in (before, after)]
    rise = rates[1] - rates[0]
    return rise if kind == "benign" else -rise


def over_refusal_reward(kind: PromptKind, verdict: Verdict) -> float | None:
    """-1 for a refusal of a benign prompt, 0 for everything else; None without a verdict."""
    if kind == "harmful" or verdict.reason in ("empty", "degenerate"):
        return 0.0
    if verdict.reason != "ok" or verdict.refusal is None:
        return None
    return -float(verdict.refusal)


def whole_groups(totals: Sequence[float | None], size: int) -> list[float | None]:
    """Drop every group of which a completion has no reward.

    Half a group would be compared with a mean that its best or worst member is missing from.

    Args:
        totals: By completion; those of one prompt stand together.
        size: Completions a prompt.
    """
    kept: list[float | None] = []
    for start in range(0, len(totals), size):
        group = totals[start : start + size]
        whole = all(total is not None for total in group)
        kept += group if whole else [None] * len(group)
    return kept


class Alarm:
    """Watches rewards over a training.

    Args:
        warn: Called with a remark that belongs beside the result.

    Attributes:
        rows, lost: Completions so far, and those without a reward, by reason.
        dropped: Groups that were dropped.
        unlabelled: Completions that deliberation is worth 0 to for want of labels.
        flat: Steps in a row of which no group had two different rewards.
        differed: Whether a group ever had.
        said: What it warned of.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.rows = 0
        self.lost: Counter[str] = Counter()
        self.dropped = 0
        self.unlabelled = 0
        self.flat = 0
        self.said: list[str] = []
        self.differed = False
        self._warn = warn

    def save(self, file: Path) -> None:
        """Write down what was seen, for a training that goes on from here."""
        write_whole(file, json.encode({name: getattr(self, name) for name in _SEEN}))

    def load(self, file: Path) -> None:
        """Take up what a process before has seen; a checkpoint may be without it."""
        if not file.exists():
            return
        for name, value in json.decode(file.read_bytes()).items():
            setattr(self, name, Counter(value) if name == "lost" else value)

    @property
    def notes(self) -> tuple[str, ...]:
        """What belongs beside the result, of this process's steps."""
        shown = ", ".join(f"{n} {reason}" for reason, n in sorted(self.lost.items()))
        lost = f"{self.lost.total()} of {self.rows} completions could not be rewarded ({shown})"
        dropped = f"{lost}: {self.dropped} groups were dropped"
        unlabelled = (
            f"deliberation is 0 for {self.unlabelled} of {self.rows} completions: fewer than two"
            " replays of a point have a label"
        )
        return (
            *dict.fromkeys(self.said),
            *([dropped] if shown else []),
            *([unlabelled] if self.unlabelled else []),
        )

    def step(self, terms: Sequence[Terms], kept: Sequence[float | None], size: int) -> None:
        """Take the rewards of one step.

        Args:
            terms: By completion.
            kept: Rewards, None for those of groups that were dropped.
            size: Completions a prompt.

        Raises:
            TrainingError: No group of a step could be judged, too many completions cannot be, or
                rewards have been constant from the start for 20 steps.
        """
        groups = [kept[start : start + size] for start in range(0, len(kept), size)]
        whole = [[each for each in group if each is not None] for group in groups]
        whole = [group for group in whole if group]
        self.rows += len(terms)
        self.lost.update(each.lost for each in terms if each.lost)
        self.unlabelled += sum(each.unlabelled for each in terms)
        self.dropped += len(groups) - len(whole)
        self._check_lost(bool(whole))
        self._check_flat(any(max(group) - min(group) > _SAME for group in whole))

    def _check_lost(self, some: bool) -> None:
        lost = self.lost.total()
        if some and lost <= max(FEW_LOST, LOST_SHARE * self.rows):
            return
        shown = ", ".join(f"{n} {reason}" for reason, n in sorted(self.lost.items()))
        raise TrainingError(
            f"{lost} of {self.rows} completions could not be rewarded ({shown})",
            hint="see that the judge runs and has room for these answers; the same command resumes",
        )

    def _check_flat(self, differs: bool) -> None:
        self.flat = 0 if differs else self.flat + 1
        self.differed = self.differed or differs
        if self.flat == FLAT_WARN:
            self.said.append(
                f"the rewards of {FLAT_WARN} steps in a row differ within no group: nothing is"
                " learnt from them"
            )
            self._warn(self.said[-1])
        if not self.differed and self.flat >= FLAT_END:
            raise TrainingError(
                f"rewards have differed within no group for {FLAT_END} steps: nothing is learnt",
                hint="raise -T temperature, take harder prompts, or a judge that gives"
                " probabilities",
            )
