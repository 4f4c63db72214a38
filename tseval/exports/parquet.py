"""A run as parquet files: rollouts, verdicts, scores and outcomes, as typed columns."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tseval.errors import CapabilityMissing, ConfigError
from tseval.loaded import Run, load_run
from tseval.tabular import (
    TABLES,
    ColumnKind,
    Line,
    TableName,
    rollout_line,
    verdict_lines,
)

from ._common import version_of, whole_file

if TYPE_CHECKING:
    import pyarrow as pa

# A row group is written when it has so many rows, or so many characters and token ids.
_ROWS, _LENGTH = 8192, 8 * 2**20


class ParquetExporter:
    """Writes one parquet file a table; memory holds one row group of each, and keys.

    Tables and columns are those of ``tseval.tabular``. Each file's metadata has the version of
    tseval, the model's name, the run's status, and whether texts were left out.
    """

    name = "parquet"
    summary = "rollouts, verdicts, scores and outcomes as parquet files with typed columns"
    redacts = True

    def export(self, run: Path, out: Path, *, redact: bool = True) -> list[Path]:
        """Write the files into a folder; see ``tseval.roles.Exporter``.

        Raises:
            ConfigError: The folder holds no run, or one without scores.
            JournalError: The run's journal is gone.
            CapabilityMissing: pyarrow is not installed.
        """
        _require_pyarrow()
        opened = load_run(run)
        if not opened.scores:
            raise ConfigError(f"{run} has no scores", hint="tseval show RUN says why")
        about = {
            "tseval.version": version_of(opened),
            "tseval.model": opened.subject.name,
            "tseval.status": opened.status,
            "tseval.redacted": "yes" if redact else "no",
        }
        simple: tuple[TableName, ...] = ("scores", "outcomes", "measurements")
        files = {name: out / f"{name}.parquet" for name in TABLES}
        # Found broken before anything is written.
        lines = {name: _peeked(opened.lines(name)) for name in simple}
        with ExitStack() as stack:
            _journal(opened, files, about, redact=redact, stack=stack)
            written: list[TableName] = ["rollouts", "verdicts"]
            for name, found in lines.items():
                if found is not None:
                    with _Writer(stack.enter_context(whole_file(files[name])), name, about) as to:
                        to.extend(found)
                    written.append(name)
        return [files[name] for name in written]


def _journal(
    run: Run, files: dict[TableName, Path], about: dict[str, str], *, redact: bool, stack: ExitStack
) -> None:
    """Write rollouts and verdicts in one pass over the journal."""
    rows = run.rollouts()
    # Opened before there are files: a run whose journal is gone leaves none.
    first = list(_first(rows))
    rollouts = stack.enter_context(whole_file(files["rollouts"]))
    verdicts = stack.enter_context(whole_file(files["verdicts"]))
    with _Writer(rollouts, "rollouts", about) as made, _Writer(verdicts, "verdicts", about) as said:
        for stored in chain(first, rows):
            made.extend([rollout_line(stored, redact=redact)])
            said.extend(verdict_lines(stored, redact=redact))


def _first(rows: Iterator[Any]) -> Iterator[Any]:
    for row in rows:
        yield row
        return


def _peeked(lines: Iterator[Line]) -> Iterator[Line] | None:
    """Return the lines; None if there are none."""
    first = list(_first(lines))
    return chain(first, lines) if first else None


class _Writer:
    """Writes lines to a parquet file, a row group at a time.

    Args:
        path: The file.
        table: Which table it is.
        about: Metadata of the file.
    """

    def __init__(self, path: Path, table: TableName, about: dict[str, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._columns = TABLES[table]
        fields = [pa.field(name, _type(kind)) for name, kind in self._columns.items()]
        self._schema = pa.schema(fields, metadata=about)
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._waiting: list[Line] = []
        self._length = 0

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self._flush()
        self._file.close()

    def extend(self, lines: Iterable[Line]) -> None:
        """Add lines; write those that wait when they are many, or long."""
        for line in lines:
            self._waiting.append(line)
            sized = (value for value in line.values() if isinstance(value, str | tuple))
            self._length += sum(map(len, sized))
            if len(self._waiting) >= _ROWS or self._length >= _LENGTH:
                self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._waiting:
            return
        columns = [
            pa.array([_cell(line[name], kind) for line in self._waiting], type=_type(kind))
            for name, kind in self._columns.items()
        ]
        self._file.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        self._waiting, self._length = [], 0


def _cell(value: Any, kind: ColumnKind) -> Any:
    return list(value.items()) if kind in ("counts", "tags") and value is not None else value


def _type(kind: ColumnKind) -> "pa.DataType":
    import pyarrow as pa

    text = pa.string()
    types = {
        "text": text,
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "texts": pa.list_(text),
        "ints": pa.list_(pa.int32()),
        "counts": pa.map_(text, pa.int64()),
        "tags": pa.map_(text, text),
    }
    return types[kind]


def _require_pyarrow() -> None:
    """Raise CapabilityMissing unless parquet files can be written."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise CapabilityMissing(
            "parquet files are written by pyarrow, which is not installed",
            hint="pip install pyarrow; tseval.load_run reads the run without it",
        ) from error
