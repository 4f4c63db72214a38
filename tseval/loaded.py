"""A run read back in Python: its scores, its records as they are asked for, and data frames."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from .arrays import ArrayStore
from .errors import ConfigError, JournalError, UnknownName
from .journal import Journal
from .measurements import Measurement
from .outcomes import Outcomes, RowOutcome
from .readback import Row, Stored, noted_rows, stored_rows, verdicts_of
from .requests import Subject
from .runfolder import Manifest, RunFolder, Scorecard
from .tabular import (
    TABLES,
    Line,
    TableName,
    measurement_lines,
    outcome_lines,
    rollout_line,
    score_lines,
    verdict_lines,
)
from .types import Score, Verdict

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class Judgement(NamedTuple):
    """One verdict of a run.

    Attributes:
        row: Which rollout was judged.
        judge: Label of the judge.
        verdict: What it said.
    """

    row: Row
    judge: str
    verdict: Verdict


def load_run(path: str | Path) -> "Run":
    """Open the folder of a run for reading; nothing is changed, and no model is loaded.

    Args:
        path: A folder that ``tseval run`` made, finished or not.

    Returns:
        The run. Files are read when something of them is asked for.

    Raises:
        ConfigError: The folder holds no run, or one of a newer tseval.
    """
    return Run(RunFolder.load(Path(path)))


class Run:
    """A run, as it lies in its folder.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return f"<Run {str(self.path)!r}: {self.status}>"

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    @property
    def manifest(self) -> Manifest:
        """What ``run.json`` says: specification, versions, legs, what failed."""
        return self._folder.manifest

    @property
    def status(self) -> str:
        """'complete', or what is wrong: 'incomplete', 'interrupted', 'failed', 'running'."""
        return self.manifest.status

    @property
    def subject(self) -> Subject:
        """Identity of what was measured; raises ConfigError as :attr:`scorecard` does."""
        return self.scorecard.subject

    @cached_property
    def scorecard(self) -> Scorecard:
        """``scores.json``.

        Raises:
            ConfigError: There are no scores yet, or the file is broken.
        """
        return self._folder.scorecard()

    @property
    def scores(self) -> tuple[Score, ...]:
        """Every number, in table order.

        ``estimate`` is its value and interval, ``n`` its denominator, ``excluded`` what left it;
        :meth:`protocol_of` says how it was measured.
        """
        return tuple(self.scorecard.scores)

    def score(self, benchmark: str, metric: str, judge: str = "", group: str = "") -> Score:
        """Find one number.

        Args:
            benchmark: Its benchmark, or a suite.
            metric: Its metric.
            judge: Label of its judge; '' where the run has only one such number.
            group: Part of the benchmark, or '' for the whole.

        Raises:
            ConfigError: There is no such number, or there are several.
        """
        wanted = benchmark, metric, group
        found = [
            score
            for score in self.scores
            if (score.benchmark, score.metric, score.group) == wanted and judge in ("", score.judge)
        ]
        if len(found) == 1:
            return found[0]
        named = " ".join(filter(None, (benchmark, group, metric, judge)))
        if found:
            judges = ", ".join(score.judge for score in found)
            raise ConfigError(f"{self.path} has {len(found)} of {named}: of {judges}")
        known = dict.fromkeys(f"{score.benchmark} {score.metric}" for score in self.scores)
        raise ConfigError(f"{self.path} has no {named} (it has: {', '.join(known) or 'none'})")

    def protocol_of(self, score: Score) -> dict[str, Any]:
        """Return the protocol that a number was measured under, as plain values."""
        return self.scorecard.protocols.get(score.fingerprint, {})

    @cached_property
    def measurements(self) -> list[Measurement]:
        """What probes found; empty for a run without probes."""
        return self._folder.measurements()

    def rollouts(self, benchmark: str = "") -> Iterator[Stored]:
        """Read the rollouts from the journal, each with its verdicts.

        Memory holds keys, and one rollout at a time.

        Args:
            benchmark: Only of this benchmark; '' for all.

        Yields:
            Row, rollout (None where it failed) and verdicts by judge, in the order in which they
            came.

        Raises:
            JournalError: The journal is gone or broken.
        """
        with closing(Journal.open(self._folder.journal, write=False)) as journal:
            yield from stored_rows(journal, benchmark)

    def verdicts(self, benchmark: str = "", judge: str = "") -> Iterator[Judgement]:
        """Read the verdicts from the journal.

        Args:
            benchmark: Only on this benchmark; '' for all.
            judge: Only of the judge with this label; '' for all.

        Raises:
            JournalError: The journal is gone or broken.
        """
        with closing(Journal.open(self._folder.journal, write=False)) as journal:
            for row in noted_rows(journal, benchmark):
                for name, verdict in verdicts_of(journal, row).items():
                    if judge in ("", name):
                        yield Judgement(row, name, verdict)

    def outcomes(self, score: Score) -> list[RowOutcome]:
        """Return what each row came to under a number that is a mean over rows.

        Args:
            score: One of :attr:`scores`.

        Raises:
            ConfigError: The run has no outcomes, the number is no mean over rows, or the two
                files do not fit each other.
        """
        found = self._outcomes
        if not found.series:
            raise ConfigError(
                f"{self.path} has no outcomes (outcomes.json)",
                hint="run the same `tseval run` command again: they are made from its journal",
            )
        rows = found.of(score)
        if rows is None:
            raise ConfigError(
                f"{score.benchmark} {score.metric} is no mean over rows, so it has no outcomes"
            )
        return rows

    @cached_property
    def _outcomes(self) -> Outcomes:
        return self._folder.outcomes()

    @cached_property
    def hidden_states(self) -> "HiddenStates":
        """Hidden states that probes had read, by content key; empty where none were."""
        return HiddenStates(self.path / "arrays")

    def lines(self, table: TableName, *, redact: bool = False) -> Iterator[Line]:
        """Yield the rows of a table, one at a time; see ``tseval.tabular`` for the columns.

        Args:
            table: 'rollouts', 'verdicts', 'scores', 'outcomes' or 'measurements'.
            redact: Leave out what was answered to harmful prompts.

        Raises:
            UnknownName: There is no such table.
            ConfigError, JournalError: What the table is made of is missing or broken.
        """
        if table == "rollouts":
            return (rollout_line(stored, redact=redact) for stored in self.rollouts())
        if table == "verdicts":
            return (line for each in self.rollouts() for line in verdict_lines(each, redact=redact))
        simple: dict[str, Callable[[], Iterator[Line]]] = {
            "scores": lambda: score_lines(self.scorecard),
            "outcomes": lambda: outcome_lines(self._outcomes),
            "measurements": lambda: measurement_lines(self.measurements),
        }
        if table not in simple:
            known = get_args(TableName)
            raise UnknownName("table", table, known, hint=f"one of {', '.join(known)}")
        return simple[table]()

    def to_frame(self, table: TableName) -> "pd.DataFrame":
        """Make a pandas data frame of a table; it holds the whole table in memory.

        Args:
            table: 'rollouts', 'verdicts', 'scores', 'outcomes' or 'measurements'.

        Returns:
            Columns in a fixed order, also where there are no rows. Whole numbers and truth values
            that may be missing have pandas' nullable types: a missing one never turns into
            0, NaN or False.

        Raises:
            UnknownName: There is no such table.
            ConfigError, JournalError: What the table is made of is missing or broken.
        """
        import pandas as pd

        lines = list(self.lines(table))
        types = {"int": "Int64", "bool": "boolean", "float": "float64"}
        return pd.DataFrame(
            {
                name: pd.Series(
                    [line[name] for line in lines], dtype=types.get(kind, "object"), name=name
                )
                for name, kind in TABLES[table].items()
            }
        )


class HiddenStates(Mapping[str, "np.ndarray"]):
    """Hidden states of a run by content key; each is read when it is asked for.

    Args:
        folder: ``arrays/`` of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, key: str) -> "np.ndarray":
        return ArrayStore(self._folder).read(self._pointers[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._pointers)

    def __len__(self) -> int:
        return len(self._pointers)

    @cached_property
    def _pointers(self) -> dict[str, str]:
        from safetensors import SafetensorError, safe_open

        found: dict[str, str] = {}
        for shard in sorted(self._folder.glob("*.safetensors")):
            try:
                with safe_open(shard, framework="numpy") as tensors:
                    names = [name.removesuffix(".bfloat16") for name in tensors.keys()]  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                raise JournalError(
                    f"cannot read {shard}: {error}", hint="put it back, or leave it out"
                ) from error
            for name in sorted(names):
                found.setdefault(name, f"{shard.name}#{name}")
        return found


def public(value: Any) -> Any:
    """Leave out addresses: of a server that a model or a judge was reached at."""
    if isinstance(value, dict):
        return {name: public(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [public(each) for each in value]
    return "(address left out)" if isinstance(value, str) and "://" in value else value
