"""Choose rollouts of a run for people to label, and keep what they say.

A run's rollouts are too many to label, so some are chosen. Each rollout that has a text to label
has a known probability above 0 of being chosen, so rates over all of them can be estimated from
the few (``tseval.stats_judge.prediction_powered``). What was chosen, and with which probabilities,
is kept in the run's folder beside the labels.
"""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
from msgspec import Struct

from tseval.errors import ConfigError, DataError
from tseval.journal import Journal
from tseval.protocol import canonical_json, fingerprint
from tseval.readback import Stored, stored_rows
from tseval.runfolder import RunFolder
from tseval.scoring import text_to_judge
from tseval.types import TextJudged

from .calibration import Kind, outcome_of_label

if TYPE_CHECKING:
    import numpy as np

By = Literal["random", "disagreement"]
# Share of the labels that every rollout competes for alike, whatever the judges say of it.
UNIFORM_SHARE = 0.5


class Design(Struct, frozen=True, kw_only=True):
    """How rollouts were chosen; ``labelling/<id>.json`` in the run's folder.

    Attributes:
        kind: What people are asked about the text.
        by: At random, or by how much judges disagree.
        judges: Judges whose disagreement counted.
        benchmarks: Benchmarks that rollouts were chosen from; empty: all.
        n, seed: As asked for.
        text: Which text of a rollout is on the sheet.
        rollouts: Rollouts that could be chosen.
        chosen: Probability of each chosen rollout, by the first half of its key.
    """

    kind: Kind
    by: By
    judges: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    n: int
    seed: int
    text: TextJudged = "answer"
    rollouts: int
    chosen: dict[str, float]

    @property
    def id(self) -> str:
        """Short name, the same for equal designs."""
        return fingerprint(msgspec.to_builtins(self))


class HumanLabel(Struct, frozen=True, kw_only=True):
    """One line of ``labels.jsonl``: what people say of one rollout.

    Attributes:
        rollout: First half of the rollout's key.
        kind: What they were asked.
        positive: Whether the text refuses, or is harmful.
        probability: With which the rollout was chosen.
        text: Which text they saw.
        design: Id of the design.
    """

    rollout: str
    kind: Kind
    positive: bool
    probability: float
    text: TextJudged
    design: str


class Shown(NamedTuple):
    """What people are shown of a rollout."""

    prompt: str
    answer: str


class _Unit(NamedTuple):
    """A rollout that may be chosen: its key, and how much the judges disagree about it."""

    key: str
    disagreement: float


def design_labels(
    folder: RunFolder,
    *,
    kind: Kind,
    n: int,
    by: By = "random",
    judges: tuple[str, ...] = (),
    benchmarks: tuple[str, ...] = (),
    seed: int = 0,
) -> tuple[Design, dict[str, Shown]]:
    """Choose rollouts of a run to be labelled, and keep the design in the run's folder.

    Args:
        folder: The run.
        kind: What people are asked about each text.
        n: Rollouts to choose; all, if there are no more.
        by: 'random' gives every rollout the same probability. 'disagreement' gives half of the
            places that way, and half in proportion to the share of pairs of judges that disagree.
        judges: Labels of the judges whose disagreement counts; empty: all that say ``kind`` of
            the text that is on the sheet.
        benchmarks: Choose from these only.
        seed: Of the draw.

    Returns:
        The design, and what people are shown of each chosen rollout.

    Raises:
        ConfigError: Nothing can be chosen as asked, or the design cannot be kept.
    """
    text = folder.manifest.spec.text
    texts = judged_texts(folder)
    others = {judge for judge, seen in texts.items() if seen != text}
    if by == "disagreement" and (wrong := [judge for judge in judges if judge in others]):
        raise ConfigError(
            f"{wrong[0]!r} was shown another text ({texts[wrong[0]]}) than the sheet has ({text})",
            hint="name --judges that were shown the same text",
        )
    journal = Journal.open(folder.journal, write=False)
    try:
        units = {
            unit.key: unit
            for stored in _candidates(folder, journal, benchmarks)
            for unit in [_unit(stored, kind, judges, by, others)]
        }
        if not units:
            raise ConfigError(
                f"{folder.path} has no rollout with a text to label", hint="check --benchmark"
            )
        design = Design(
            kind=kind,
            by=by,
            judges=judges,
            benchmarks=benchmarks,
            n=n,
            seed=seed,
            text=text,
            rollouts=len(units),
            chosen=choose(sorted(units.values()), n, by=by, seed=seed),
        )
        shown = {
            key: Shown(stored.row.prompt, _text_of(folder, stored))
            for stored in _candidates(folder, journal, benchmarks)
            if (key := _key(stored)) in design.chosen
        }
    finally:
        journal.close()
    _write(_designs(folder) / f"{design.id}.json", canonical_json(design) + b"\n")
    return design, shown


def read_design(folder: RunFolder, design_id: str) -> Design | None:
    """Read a design of a run; None if the run has none of that id.

    Raises:
        DataError: It is broken.
    """
    path = _designs(folder) / f"{design_id}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Design)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"cannot read {path}: {error}", hint="export the sheet again") from error


def choose(units: list[_Unit], n: int, *, by: By, seed: int) -> dict[str, float]:
    """Choose n of the units, each with a known probability.

    Systematic sampling in random order: the probabilities hold exactly, and exactly n are chosen.

    Args:
        units: What to choose from, in an order that does not depend on when it was made.
        n: How many.
        by: See :func:`export_sheet`.
        seed: Of the order and the start.

    Returns:
        Probability by key, in random order.

    Raises:
        ConfigError: n is below 1, or 'disagreement' was asked for where no judges disagree.
    """
    import numpy as np

    if n < 1:
        raise ConfigError(f"--n is {n}, expected at least 1")
    weights = np.array([unit.disagreement for unit in units])
    if by == "disagreement" and not weights.any():
        raise ConfigError(
            "the judges disagree about no rollout that could be labelled",
            hint="--by random; or judge the run with another judge first",
        )
    probabilities = _probabilities(weights if by == "disagreement" else None, len(units), n)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(units))
    # One is chosen wherever the running sum passes a whole number from a random start.
    sums = np.concatenate([[0.0], np.cumsum(probabilities[order])])
    sums[-1] = round(sums[-1])  # which it is, up to rounding
    passed = np.floor(sums + rng.random())
    picked = order[np.diff(passed) > 0]
    return {units[i].key: float(probabilities[i]) for i in rng.permutation(picked)}


def _probabilities(weights: "np.ndarray | None", count: int, n: int) -> "np.ndarray":
    """Inclusion probabilities that sum to n, or to ``count`` if that is less."""
    import numpy as np

    if n >= count:
        return np.ones(count)
    if weights is None:
        return np.full(count, n / count)
    share = UNIFORM_SHARE / count + (1 - UNIFORM_SHARE) * weights / weights.sum()
    certain = np.zeros(count, dtype=bool)
    while True:
        # What would be above 1 is chosen for certain; the rest shares what is left.
        scaled = np.where(certain, 1.0, share * (n - certain.sum()) / share[~certain].sum())
        above = (scaled > 1) & ~certain
        if not above.any():
            return scaled
        certain |= above


def _candidates(
    folder: RunFolder, journal: Journal, benchmarks: tuple[str, ...]
) -> Iterator[Stored]:
    """Rollouts with a text that can be labelled."""
    for stored in stored_rows(journal):
        wanted = not benchmarks or stored.row.benchmark in benchmarks
        if wanted and stored.rollout is not None and _text_of(folder, stored).strip():
            yield stored


def _text_of(folder: RunFolder, stored: Stored) -> str:
    spec = folder.manifest.spec
    assert stored.rollout is not None
    text, lost = text_to_judge(stored.rollout, spec.text, spec.thinking.unclosed)
    return "" if lost else text


def _key(stored: Stored) -> str:
    return rollout_key(stored.row.generation)


def rollout_key(generation: str) -> str:
    """Return what sheets and labels call a rollout: the first half of its key."""
    return generation[:16]


def judged_texts(folder: RunFolder) -> dict[str, str]:
    """Say which text ('answer', 'trace', 'both') each judge with a score was shown."""
    if not (folder.path / "scores.json").exists():
        return {}
    card = folder.scorecard()
    return {
        score.judge: str(card.protocols[score.fingerprint].get("text"))
        for score in card.scores
        if score.judge and score.fingerprint in card.protocols
    }


def _unit(stored: Stored, kind: Kind, judges: tuple[str, ...], by: By, others: set[str]) -> _Unit:
    if by == "random":
        return _Unit(_key(stored), 0.0)
    missing = [judge for judge in judges if judge not in stored.verdicts]
    if missing:
        raise ConfigError(
            f"the run has no verdict of {missing[0]!r} (it has: {', '.join(stored.verdicts)})",
            hint="judge it first, or name other --judges",
        )
    asked = judges or [judge for judge in stored.verdicts if judge not in others]
    said = [outcome_of_label(stored.verdicts[judge], kind) for judge in asked]
    clear = [outcome for outcome in said if outcome in ("positive", "negative")]
    pairs = list(combinations(clear, 2))
    return _Unit(_key(stored), sum(a != b for a, b in pairs) / len(pairs) if pairs else 0.0)


def save_labels(folder: RunFolder, labels: list[HumanLabel], *, replace: bool = False) -> Path:
    """Keep labels in the run's folder, in ``labels.jsonl``.

    Labels of the same design are replaced. Two designs about one kind of label can't be put
    together: a rollout's probability would be that of either draw.

    Args:
        folder: The run.
        labels: Of one sheet.
        replace: Forget labels of another design of the same kind.

    Returns:
        The file.

    Raises:
        ConfigError: There are labels of another design, and ``replace`` was not said.
    """
    kind, design = labels[0].kind, labels[0].design
    kept = [label for label in load_labels(folder) if label.kind != kind]
    others = {one.design for one in load_labels(folder) if one.kind == kind} - {design}
    if others and not replace:
        raise ConfigError(
            f"{folder.path} has labels of another sheet about {kind} ({', '.join(sorted(others))})",
            hint="rates need all labels of a kind from one draw: --replace forgets the others",
        )
    path = folder.path / "labels.jsonl"
    ordered = sorted([*kept, *labels], key=lambda label: (label.kind, label.rollout))
    _write(path, b"".join(canonical_json(label) + b"\n" for label in ordered))
    return path


def load_labels(folder: RunFolder) -> list[HumanLabel]:
    """Read the labels that a run's folder holds; none if nobody labelled anything.

    Raises:
        DataError: The file is broken.
    """
    path = folder.path / "labels.jsonl"
    if not path.exists():
        return []
    try:
        return msgspec.json.Decoder(HumanLabel).decode_lines(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"cannot read {path}: {error}", hint="read the sheet again") from error


def _designs(folder: RunFolder) -> Path:
    return folder.path / "labelling"


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
