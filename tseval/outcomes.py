"""What each row came to under each score: the part of a run that comparisons are made of.

``scores.json`` has the rates; ``outcomes.json`` has, for every score that is a mean over rows, each
row's outcome, without any text. Two runs are compared by pairing these rows.
"""

import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from math import isclose
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct, field

from .errors import ConfigError, TsevalError
from .metrics import ASR_HARMFUL, ASR_NONREFUSAL, ASR_SUBSTANTIVE, ORR, PASS_AT_1, Judged
from .types import Score

if TYPE_CHECKING:
    import numpy as np

OUTCOMES_SCHEMA = 1
# Of a hash.
_DIGITS = 12
_HEX = re.compile("[0-9a-f]*")
# A rollout that is not there.
MISSING = "-"
# Characters of outcomes; a quote or a backslash would be escaped, and the dash is taken.
_PLAIN = [chr(code) for code in range(35, 127) if chr(code) not in "\\-"]
_FIRST_FURTHER = 0x100
_MOST = 0xD800 - _FIRST_FURTHER + len(_PLAIN)

# Rates that are pooled means of their rows.
_RATES = {each.name for each in (ASR_HARMFUL, ASR_NONREFUSAL, ASR_SUBSTANTIVE, ORR, PASS_AT_1)}

SeriesKey = tuple[str, str, str, str]
# An outcome's name, and what it counts; None if it left the denominator.
Pair = tuple[str, float | None]


class RowOutcome(NamedTuple):
    """One row under one score.

    Attributes:
        row: Hash of its sample (see :func:`row_hash`).
        rollout: Which rollout of it.
        cluster: Hash of what it shares with rows that are not independent of it.
        outcome: Name, as in ``Score.outcomes`` or ``Score.excluded``.
        value: What it counts, in [0, 1]; None if it left the denominator.
    """

    row: str
    rollout: int
    cluster: str
    outcome: str
    value: float | None


class Rows(Struct, frozen=True, kw_only=True):
    """The rows of one or more series, in the order of their hashes.

    Attributes:
        hashes: Of the samples, 12 hex digits each, one behind the other.
        clusters: Hash of each sample's cluster, likewise; equal ones are not independent.
        rollouts: Rollouts of each sample.
    """

    hashes: str
    clusters: str
    rollouts: tuple[int, ...]


class Series(Struct, frozen=True, kw_only=True):
    """Outcomes of all rows under one score.

    Attributes:
        benchmark, group, metric, judge, fingerprint: As on the score.
        rows: Place of its rows in ``Outcomes.rows``.
        legend: What a character stands for: the outcome's name, and what it counts.
        codes: One character a rollout: those of the first row, then of the second ...; '-' for one
            that is not there.
    """

    benchmark: str
    metric: str
    judge: str = ""
    group: str = ""
    fingerprint: str = ""
    rows: int = 0
    legend: dict[str, tuple[str, float | None]] = field(default_factory=dict)
    codes: str = ""

    @property
    def key(self) -> SeriesKey:
        """Which score it belongs to."""
        return self.benchmark, self.group, self.metric, self.judge


class Outcomes(Struct, frozen=True, kw_only=True):
    """``outcomes.json``."""

    rows: tuple[Rows, ...] = ()
    series: tuple[Series, ...] = ()
    schema: int = OUTCOMES_SCHEMA

    def of(self, score: Score, *, rated: bool = True) -> list[RowOutcome] | None:
        """Return the rows of a score, by hash and rollout; else as :meth:`series_of`."""
        series = self.series_of(score, rated=rated)
        return None if series is None else list(decoded(self.rows[series.rows], series))

    def series_of(self, score: Score, *, rated: bool = True) -> Series | None:
        """Return the outcomes of a score's rows, packed; None where it is no mean over rows.

        Args:
            score: Of the scorecard beside them.
            rated: Whether they have to give the score's own value.

        Raises:
            ConfigError: They are not the rows that the score was made of.
        """
        wanted = key_of(score)
        series = next((each for each in self.series if each.key == wanted), None)
        if series is None:
            return None
        counts = {code: series.codes.count(code) for code in series.legend}
        usable = sum(n for code, n in counts.items() if series.legend[code][1] is not None)
        found, lost = sum(counts.values()), sum(score.excluded.values())
        if (series.fingerprint, usable, found) != (score.fingerprint, score.n, score.n + lost):
            raise ConfigError(
                f"outcomes.json has other rows of {' '.join(filter(None, wanted))} than scores.json"
                f" counts ({usable} usable of {found}, {score.n} of {score.n + lost})",
                hint="run the same `tseval run` command again: both are made anew",
            )
        if rated:
            _check_rate(series, score, counts)
        return series

    def check(self) -> None:
        """Raise ConfigError where its rows or its characters cannot be told apart, or are gone."""
        for place, rows in enumerate(self.rows):
            _check_rows(f"table {place} of the outcomes", rows)
        for series in self.series:
            if not 0 <= series.rows < len(self.rows):
                raise ConfigError(f"it has no rows for {series.benchmark} {series.metric}")
            _check_codes(self.rows[series.rows], series)


def _check_rate(series: Series, score: Score, counts: dict[str, int]) -> None:
    """Raise ConfigError where a rate over rows is not what its outcomes give.

    Of other means, and of soft votes, the same characters can stand for several values.
    """
    if series.metric not in _RATES or series.benchmark.startswith("lm-eval/"):
        return
    values = {code: value for code, (_, value) in series.legend.items()}
    if score.estimate is None or any(value not in (None, 0, 1) for value in values.values()):
        return
    hits = sum(n for code, n in counts.items() if values[code] == 1)
    if not isclose(hits / score.n, score.estimate.value, abs_tol=1e-9):
        name = " ".join(filter(None, series.key))
        raise ConfigError(
            f"outcomes.json has {hits} of {score.n} for {name}, scores.json says"
            f" {100 * score.estimate.value:.1f}%: one of them was changed",
            hint="run the same `tseval run` command again: both are made anew",
        )


def key_of(score: Score) -> SeriesKey:
    """Say which series is a score's."""
    return score.benchmark, score.group, score.metric, score.judge


def row_hash(sample: str, prompt: str) -> str:
    """Hash a sample's id and prompt to twelve hex digits, the same in every run that asks it."""
    return sha256(f"{sample}\0{prompt}".encode(errors="surrogatepass")).hexdigest()[:_DIGITS]


class OutcomeBook:
    """Collects outcomes as scores are made, packed: a few dozen bytes a row."""

    def __init__(self) -> None:
        self._tables: dict[Rows, Rows] = {}
        self._kept: dict[SeriesKey, tuple[Rows, Series]] = {}

    def keep(self, score: Score, rows: Iterable[Judged]) -> None:
        """Keep the rows of a score; a series that was kept before is replaced.

        Raises:
            TsevalError: Two rows are the same rollout of the same sample, or one's name is no hash.
        """
        self.keep_packed(score, *_packed(score, rows))

    def keep_packed(self, score: Score, table: Rows, legend: dict[str, Pair], codes: str) -> None:
        """Keep the rows of a score that are packed already; else as :meth:`keep`."""
        series = Series(
            benchmark=score.benchmark,
            group=score.group,
            metric=score.metric,
            judge=score.judge,
            fingerprint=score.fingerprint,
            legend=legend,
            codes=codes,
        )
        # Other readings of the same rows share them.
        self._kept[series.key] = self._tables.setdefault(table, table), series

    def forget(self, benchmark: str) -> None:
        """Drop what a benchmark kept before it failed."""
        for key in [key for key in self._kept if key[0] == benchmark]:
            del self._kept[key]

    def packed(self, scores: Iterable[Score], earlier: Outcomes) -> Outcomes:
        """Put together what is kept, and what an earlier leg kept of other scores.

        Args:
            scores: Of the scorecard that is written beside it; series of others are left out.
            earlier: What was there.
        """
        wanted = {key_of(score): score.fingerprint for score in scores}
        kept = dict(self._kept)
        for series in earlier.series:
            if wanted.get(series.key) == series.fingerprint:
                kept.setdefault(series.key, (earlier.rows[series.rows], series))
        tables: dict[Rows, int] = {}
        found = []
        for key in (key for key in wanted if key in kept):
            table, series = kept[key]
            place = tables.setdefault(table, len(tables))
            found.append(msgspec.structs.replace(series, rows=place))
        return Outcomes(rows=tuple(tables), series=tuple(found))


def _packed(score: Score, rows: Iterable[Judged]) -> tuple[Rows, dict[str, Pair], str]:
    codes: dict[Pair, str] = {}
    # Cluster and codes of each sample; single characters take no memory of their own.
    places: dict[str, tuple[str, str]] = {}
    for each in rows:
        pair = each.outcome, None if each.hit is None else float(each.hit)
        code = codes.setdefault(pair, _character(len(codes)))
        _, said = places.get(each.row, ("", ""))
        said = said.ljust(each.rollout + 1, MISSING)
        if said[each.rollout] != MISSING:
            raise TsevalError(
                f"{score.benchmark}: two rows are {each.row}, rollout {each.rollout}",
                hint="a bug of the benchmark: its sample ids are not unique",
            )
        said = said[: each.rollout] + code + said[each.rollout + 1 :]
        places[each.row] = each.cluster, said
    order = sorted(places)
    sizes = [len(places[row][1]) for row in order]
    table = joined_rows(order, [places[row][0] for row in order], sizes)
    legend = legend_of(codes)
    turned = str.maketrans({codes[pair]: code for code, pair in legend.items()})
    return table, legend, "".join(places[row][1] for row in order).translate(turned)


def joined_rows(rows: list[str], clusters: list[str], rollouts: list[int]) -> Rows:
    """Put rows that are in order into a table; clusters, of each row, are hashed.

    Raises:
        TsevalError: A row's name is none that a reader could take out of the table again.
    """
    hashes = "".join(rows)
    if set(map(len, rows)) - {_DIGITS} or not _HEX.fullmatch(hashes):
        odd = next(row for row in rows if len(row) != _DIGITS or not _HEX.fullmatch(row))
        raise TsevalError(
            f"a row is named {odd[:40]!r}, expected {_DIGITS} hex digits",
            hint="a bug of the benchmark: rows are named by tseval.row_hash(id, prompt)",
        )
    return Rows(
        hashes=hashes,
        clusters="".join([row_hash("cluster", cluster) for cluster in clusters]),
        rollouts=tuple(rollouts),
    )


def legend_of(pairs: Iterable[Pair]) -> dict[str, Pair]:
    """Give each outcome a character, in an order of their own: that of rows never shows."""
    order = sorted(pairs, key=repr)
    if len(order) > _MOST:
        raise TsevalError(f"{len(order)} distinct outcomes of one score, expected at most {_MOST}")
    return {_character(number): pair for number, pair in enumerate(order)}


def _character(number: int) -> str:
    if number < len(_PLAIN):
        return _PLAIN[number]
    return chr(_FIRST_FURTHER + number - len(_PLAIN))


def decoded(rows: Rows, series: Series) -> Iterator[RowOutcome]:
    """Yield the rows of a series.

    Raises:
        ConfigError: Its characters do not fit its rows.
    """
    _check_codes(rows, series)
    place = 0
    for number, size in enumerate(rows.rollouts):
        part = slice(number * _DIGITS, (number + 1) * _DIGITS)
        row, cluster = rows.hashes[part], rows.clusters[part]
        for rollout in range(size):
            code = series.codes[place]
            place += 1
            if code != MISSING:
                outcome, value = series.legend[code]
                yield RowOutcome(row, rollout, cluster, outcome, value)


def _check_rows(name: str, rows: Rows) -> None:
    """Raise ConfigError where rows are not told apart by a hash each, or lengths do not fit."""
    wanted = _DIGITS * len(rows.rollouts)
    alike = len(rows.hashes) == len(rows.clusters) == wanted
    if not alike or any(each < 1 for each in rows.rollouts):
        raise ConfigError(f"{name} does not fit itself")
    if not _HEX.fullmatch(rows.hashes) or not _HEX.fullmatch(rows.clusters):
        raise ConfigError(f"{name} holds other things than hashes")
    places = range(0, wanted, _DIGITS)
    if len({rows.hashes[place : place + _DIGITS] for place in places}) < len(places):
        raise ConfigError(f"{name} has rows twice")


def _check_codes(rows: Rows, series: Series) -> None:
    """Raise ConfigError where a series' characters do not fit its rows, or its legend."""
    if any(len(code) != 1 or code == MISSING for code in series.legend):
        raise ConfigError(f"{series.benchmark}: its legend explains other things than characters")
    if len(series.codes) != sum(rows.rollouts):
        raise ConfigError(
            f"{series.benchmark}: {len(series.codes)} outcomes of {sum(rows.rollouts)} rollouts"
        )
    for code in sorted(set(series.codes) - {MISSING, *series.legend}):
        raise ConfigError(f"{series.benchmark}: {code!r} is no outcome of its legend")


def hashes_of(joined: str) -> "np.ndarray":
    """Take hashes that stand one behind the other apart: str [rows]."""
    import numpy as np

    return np.frombuffer(joined.encode("utf-32-le"), dtype=f"<U{_DIGITS}")
