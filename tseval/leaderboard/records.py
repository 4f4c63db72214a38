"""What passes between a board, its entries and what is written of them: frozen records."""

from typing import Any, Literal

from msgspec import Struct

from tseval.outcomes import Outcomes
from tseval.types import Score, Unit

ENTRY_SCHEMA = 1
Better = Literal["lower", "higher", "neither"]
Ties = Literal["headline", "label", "date"]
# Of what is wrong with an entry: see ``check.Problem``.
Severity = Literal["error", "protocol", "remark"]


class Column(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One column of a board: a number of a benchmark, or the mean of other columns.

    Attributes:
        key: Short name, unique on the board.
        title: Heading.
        benchmark, metric, group: Which number; empty for a mean.
        judge: The board's judge of it; '' for numbers without one. An entry that has the number
            under one other judge alone shows that, under a protocol of its own.
        mean_of: Keys of the columns that it is the mean of, with equal weights.
        unit: How values are printed.
        better: Which end is better.
        require: Protocol fields of this column, beside the board's.
        rows: Rows of the whole benchmark that the number is of; 0: the board does not say.
        note: What a reader has to know of it.
    """

    key: str
    title: str
    benchmark: str = ""
    metric: str = ""
    group: str = ""
    judge: str = ""
    mean_of: tuple[str, ...] = ()
    unit: Unit = "share"
    better: Better = "lower"
    require: dict[str, Any] = {}
    rows: int = 0
    note: str = ""

    @property
    def higher_is_better(self) -> bool | None:
        """Direction, as on scores; None where neither end is better."""
        return {"lower": False, "higher": True, "neither": None}[self.better]


class Board(Struct, frozen=True, kw_only=True):
    """``board.toml``.

    Attributes:
        name: Of its folder.
        title, description: For its page.
        columns: In table order.
        rank_by: Keys of the columns that rows are ranked by; the first is the headline. A row is
            better than another if it is shown to be better on one of them and worse on none.
        rank_else: The same for tables of other protocols none of whose rows has all of
            ``rank_by``.
        ties: Rows of which none is shown to be better share a rank; in which order they then stand:
            by the value of the headline column ('headline'), by name ('label'), or by the day on
            which their runs ended, the earliest first ('date').
        axes: Keys of the columns of the Pareto plot, x and y.
        require: Protocol fields, with dots, and the values that numbers of the board's own table
            have. Without a 'limit' among them, all rows have to be measured.
        alpha: Level of Holm's adjustment over all pairs of a table and its columns of the rank.
        min_n: Fewest rollouts of every number that a row is ranked by.
        max_excluded: Largest share of excluded ones.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rank_by: tuple[str, ...]
    axes: tuple[str, str]
    description: str = ""
    rank_else: tuple[str, ...] = ()
    ties: Ties = "headline"
    require: dict[str, Any] = {}
    alpha: float = 0.05
    min_n: int = 1
    max_excluded: float = 0.02

    def column(self, key: str) -> Column:
        """Look up a column that the board is known to have."""
        return next(column for column in self.columns if column.key == key)


class Cell(Struct, frozen=True, kw_only=True):
    """One number of a row.

    Attributes:
        value, low, high: In the column's unit; shares are fractions in [0, 1]. None where there is
            none; a reported value has no interval.
        n: Rollouts in the denominator; of a mean, of all of its columns.
        excluded: Rollouts that left it, by reason.
        bounds: The value if all of them went one way, and the other; None where unknown.
        unit, higher_is_better: As on the column.
        undefined: Why there is no value, or ''.
        fingerprint: Of the protocol; of a mean, of those of its columns.
        judge: Whose verdicts, or ''.
        partial: Whether ``--limit`` cut the benchmark.
        has_rows: Whether the entry has outcomes row by row behind it, so that it can be paired.
        note: What a reader has to know of it.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    excluded: dict[str, int] = {}
    bounds: tuple[float, float] | None = None
    unit: Unit = "share"
    higher_is_better: bool | None = False
    undefined: str = ""
    fingerprint: str = ""
    judge: str = ""
    partial: bool = False
    has_rows: bool = False
    note: str = ""


class Entry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry: the scorecard of one run, as a file; no prompts and no completions.

    Attributes:
        schema: Of this record.
        model: Name of the model.
        revision: Commit on the hub, or else the revision that was asked for, or ''.
        adapter: Name of a LoRA adapter, or ''.
        label: What tables call it.
        demonstration: Made to show the board at work, not to be relied on.
        note: What its author has to say.
        intervention: Under which it was measured, or ''.
        system_prompt_hash: Of the subject's system prompt, or ''.
        identity: Hashes and commits that identify what was measured (``Subject.identity``).
        verified: False where that rests on a server's word.
        preset: Protocol preset as shown.
        seed: Of the run.
        tseval_version: That made the run.
        commit: Of the checkout of tseval that made the entry, with '-dirty' where files had
            changed; '' outside a checkout.
        date: Day on which the run ended (ISO, UTC).
        execution: Engine, dtype, device, versions.
        protocols: By fingerprint, as plain values.
        scores: In the order of the run's table; neither averages nor members of panels.
        outcomes: What each row came to under those scores, without text.
        files: SHA-256 (hex) of the run's files, by path in its folder.
        digest: SHA-256 (hex) over the canonical JSON of all other fields.
    """

    model: str
    label: str
    tseval_version: str
    date: str
    protocols: dict[str, dict[str, Any]]
    scores: tuple[Score, ...]
    revision: str = ""
    adapter: str = ""
    demonstration: bool = False
    note: str = ""
    intervention: str = ""
    system_prompt_hash: str = ""
    identity: dict[str, str] = {}
    verified: bool = True
    preset: str = ""
    seed: int = 0
    commit: str = ""
    execution: dict[str, str] = {}
    outcomes: Outcomes = Outcomes()
    files: dict[str, str] = {}
    schema: int = ENTRY_SCHEMA
    digest: str = ""


class Row(Struct, frozen=True, kw_only=True):
    """One row of a table.

    Attributes:
        entry: What it was made from; None for a reported one.
        label: Unique in its table.
        slug: Lower-case letters, digits and dashes; unique on the board, fit for a file name.
        cells: By column key; every column has one.
        rank: 1 + the rows significantly better; None if it is not ranked, as no demonstration is
            where a measured row of its table has a rank.
        why_unranked: Why not, or ''.
        better_than, beaten_by: Labels of the rows that it is shown to be better than, and worse.
        source: Of a reported row, where it was published; '' for measured ones.
        note: What a reader has to know of it.
    """

    label: str
    slug: str
    cells: dict[str, Cell]
    entry: Entry | None = None
    rank: int | None = None
    why_unranked: str = ""
    better_than: tuple[str, ...] = ()
    beaten_by: tuple[str, ...] = ()
    source: str = ""
    note: str = ""


class Table(Struct, frozen=True, kw_only=True):
    """Rows that were measured under one protocol.

    Attributes:
        title: What it is.
        is_main: Whether its protocol is the board's own.
        protocol: Fields, with dots, that all of its numbers share.
        fingerprints: By column key; columns that no row has are not there.
        protocols: The protocol of each, in full, by column key; means have none.
        rows: Ranked ones by rank and headline, then the others.
        ranked: Whether any row has a rank.
        ranked_by: Keys of the columns that the rank is from; empty if not ranked.
    """

    title: str
    protocol: dict[str, Any]
    fingerprints: dict[str, str]
    rows: tuple[Row, ...]
    is_main: bool = False
    protocols: dict[str, dict[str, Any]] = {}
    ranked: bool = False
    ranked_by: tuple[str, ...] = ()


class Standing(Struct, frozen=True, kw_only=True):
    """A board with its rows, ranked.

    Attributes:
        board: The board.
        tables: That of the board's own protocol first, also where it is empty; then one for each
            other protocol. No rank is across tables.
        reported: Figures that others published; never ranked.
        notes: What a reader has to know of all of it.
    """

    board: Board
    tables: tuple[Table, ...]
    reported: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
