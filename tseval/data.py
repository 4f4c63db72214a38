"""Rows of a benchmark: read, checked, hashed, and put into an order that subsets share.

Rows come from a file in a ``--data-dir``, else from where the card says: a file inside a
package, or the hub. A prompt is NFC-normalised and stripped before anything else looks at it,
so equal content hashes mean that models were asked the same texts, wherever these came from.
"""

import hashlib
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from .cards import BenchmarkCard, Columns
from .errors import ConfigError, DataError
from .hub import fetch
from .questions import question_of
from .tables import RawRow, find_file, kind, read_file, read_jsonl
from .types import Sample

_CLASS = {True: "harmful", False: "benign", None: ""}
_CORRECT = "correct the row, or remove it"


class Rows(Struct, frozen=True, kw_only=True):
    """The rows of a benchmark, in an order that depends on prompts and subset seed alone.

    Attributes:
        benchmark: Its name.
        samples: What to run; with a limit, the first ``limit`` of all rows.
        n_total: Rows before the limit.
        content_hash: Hash of all rows before the limit, as read (not as the card expects).
        origin: Where the rows came from, in words.
        warnings: What is odd about them: a count or a hash that is not the card's.
        limit, subset_seed: As given.
    """

    benchmark: str
    samples: tuple[Sample, ...]
    n_total: int
    content_hash: str
    origin: str
    warnings: tuple[str, ...] = ()
    limit: int | None = None
    subset_seed: int = 0

    @property
    def partial(self) -> bool:
        """Whether the limit left rows out."""
        return len(self.samples) < self.n_total


def load_rows(
    card: BenchmarkCard,
    data_dirs: Iterable[str | Path] = (),
    *,
    limit: int | None = None,
    subset_seed: int = 0,
) -> Rows:
    """Read a benchmark's rows.

    Args:
        card: The benchmark.
        data_dirs: Folders that may hold ``<benchmark>.jsonl|csv|parquet``, themselves or in a
            direct sub-folder. Benchmarks whose rows are part of a package ignore them.
        limit: Take this many rows only, of all groups and classes together.
        subset_seed: Which rows a limit takes; under one seed a smaller limit takes a subset.

    Raises:
        ConfigError: A folder that does not exist, or a limit below 1.
        DataError: Rows that are missing, gated, unreachable, ambiguous or broken.
    """
    if limit is not None and limit < 1:
        raise ConfigError(
            f"limit is {limit}, expected at least 1", hint="leave it out to run all rows"
        )
    found = _find(card, [Path(folder) for folder in data_dirs])
    samples = _samples(card, found)
    if not samples:
        wanted = f" with {_filter_text(card)}" if card.where else ""
        raise DataError(
            f"benchmark '{card.name}': {found.origin} has no rows{wanted}",
            hint=f"expected {card.expected_rows} rows",
        )
    hashed = content_hash(samples)
    return Rows(
        benchmark=card.name,
        samples=ranked(samples, subset_seed)[:limit],
        n_total=len(samples),
        content_hash=hashed,
        origin=found.origin,
        warnings=(*found.warnings, *_differences(card, len(samples), hashed)),
        limit=limit,
        subset_seed=subset_seed,
    )


def content_hash(samples: Iterable[Sample]) -> str:
    """Hash what is asked, whatever the order and the ids.

    SHA-256 over all rows, sorted by (class, group, prompt) in code-point order; of each row
    these three texts, each as UTF-8 behind its length in bytes (8 bytes, big-endian). The class
    is 'harmful', 'benign' or ''; class and group are part of it because they decide which number
    a row enters. A row with a right answer has that as a fourth text, for the same reason. A
    prompt that is there twice is hashed twice.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for row in sorted((_CLASS[s.harmful], s.group, s.prompt, s.reference) for s in samples):
        for text in row[: 4 if row[3] else 3]:
            data = text.encode()
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
    return digest.hexdigest()


def prompt_key(text: str) -> str:
    """Return a key that prompts share if they differ in case, white space or Unicode form only.

    Some prompts occur in several benchmarks: intervals over a suite take rows with one key as
    one cluster.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return hashlib.sha256(" ".join(folded.split()).encode()).hexdigest()[:16]


def cluster_of(sample: Sample) -> str:
    """Return the cluster for intervals: variants of one prompt share it, equal prompts too."""
    return sample.tags.get("cluster") or prompt_key(sample.prompt)


class _Found(NamedTuple):
    """Raw rows, where they are from, and which column mappings may fit them.

    ``strict`` says that columns which filters need must be there: only somebody's own file may
    be filtered already.
    """

    origin: str
    rows: Iterator[RawRow]
    mappings: tuple[Columns, ...]
    strict: bool = True
    warnings: tuple[str, ...] = ()


def _find(card: BenchmarkCard, data_dirs: Sequence[Path]) -> _Found:
    source = card.source
    if source.file:
        origin = f"{source.package}/{source.file}"
        lines = (files(source.package) / source.file).read_bytes().splitlines()
        return _Found(origin, read_jsonl(origin, lines), (source.columns,))
    path = find_file(card.name, data_dirs)
    if path is not None:
        return _Found(str(path), read_file(path), card.mappings(), strict=False)
    fetched = fetch(card, data_dirs)
    return _Found(fetched.origin, fetched.rows, (source.columns,), warnings=fetched.warnings)


def _samples(card: BenchmarkCard, found: _Found) -> list[Sample]:
    """Turn raw rows into samples: columns found, filters applied, labels read."""
    samples: list[Sample] = []
    places: dict[str, str] = {}
    columns: Columns | None = None
    for row in found.rows:
        columns = columns or _fitting(row, found.mappings)
        if not _kept(card, row, strict=found.strict):
            continue
        sample = _sample(card, row, columns)
        if columns.id and sample.id in places:
            raise DataError(
                f"{row.place}, field '{columns.id}': '{sample.id}' is also the id of "
                f"{places[sample.id]}",
                hint="ids have to be unique within a benchmark",
            )
        if columns.id:
            places[sample.id] = row.place
        samples.append(sample)
    return samples


def _fitting(row: RawRow, mappings: Sequence[Columns]) -> Columns:
    """Return the first mapping whose columns the row has."""
    for columns in mappings:
        if all(column in row.fields for column in columns.required()):
            return columns
    missing = next(c for c in mappings[0].required() if c not in row.fields)
    raise DataError(
        f"{row.place}: no field '{missing}' (found: {', '.join(map(str, row.fields)) or 'none'})",
        hint="expected " + ", or ".join(" + ".join(c.required()) for c in mappings),
    )


def _kept(card: BenchmarkCard, row: RawRow, *, strict: bool) -> bool:
    for column, wanted in card.where.items():
        if column in row.fields:
            if str(row.fields[column]) not in ((wanted,) if isinstance(wanted, str) else wanted):
                return False
        elif strict:
            raise DataError(
                f"{row.place}: no field '{column}', which says what rows to keep",
                hint=f"the dataset has changed: put {card.name}.jsonl into a --data-dir",
            )
    return True


def _sample(card: BenchmarkCard, row: RawRow, columns: Columns) -> Sample:
    prompt = _text(row, columns.prompt)
    if columns.context and row.fields.get(columns.context):
        # Not str.format: contexts and prompts hold braces.
        head, _, rest = columns.layout.partition("{context}")
        middle, _, tail = rest.partition("{prompt}")
        prompt = f"{head}{_text(row, columns.context)}{middle}{prompt}{tail}".strip()
    group = _text(row, columns.group) if columns.group else row.group
    if card.groups and group not in card.groups:
        raise DataError(
            f"{row.place}, field '{columns.group or 'group'}': '{group}' is not a group of "
            f"'{card.name}'",
            hint=f"expected {' or '.join(card.groups)}",
        )
    tags = {name: sys.intern(str(value)) for name, value in _tags(row.fields, columns)}
    reference = ""
    if card.answer is not None:
        prompt, reference = question_of(card.answer, columns, row, prompt)
    return Sample(
        id=_row_id(row, columns.id) if columns.id else _digest(prompt),
        prompt=prompt,
        reference=reference,
        harmful=_is_harmful(card, row, columns),
        group=sys.intern(group),
        tags=tags,
    )


def _is_harmful(card: BenchmarkCard, row: RawRow, columns: Columns) -> bool | None:
    if card.kind == "reasoning":
        return None
    if not card.labels:
        return card.kind == "harmful"
    label = _text(row, columns.label)
    if label not in card.labels:
        raise DataError(
            f"{row.place}, field '{columns.label}': unknown label '{label}'",
            hint=f"expected {' or '.join(card.labels)}",
        )
    return card.labels[label] == "harmful"


def _tags(fields: Mapping[str, Any], columns: Columns) -> Iterator[tuple[str, Any]]:
    if columns.cluster:
        yield "cluster", fields.get(columns.cluster)
    for column in columns.tags:
        if fields.get(column) not in (None, ""):
            yield column, fields[column]


def _row_id(row: RawRow, column: str) -> str:
    value = row.fields.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(row, column)


def _text(row: RawRow, column: str) -> str:
    """Return a column's text, NFC-normalised and stripped, or say what is wrong with it."""
    value = row.fields.get(column)
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    where = f"{row.place}, field '{column}'"
    if not isinstance(value, str):
        found = kind(value) if column in row.fields else "none"
        raise DataError(f"{where}: expected a text, found {found}", hint=_CORRECT)
    text = unicodedata.normalize("NFC", value).strip()
    if not text:
        raise DataError(f"{where}: is empty", hint=_CORRECT)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: holds half of a surrogate pair, which is no character",
            hint="write the file again in UTF-8",
        ) from None
    return text


def _digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def ranked(samples: Iterable[Sample], seed: int) -> tuple[Sample, ...]:
    """Order rows by sha256(seed, prompt), and number the ids of rows that share a prompt.

    The prompt's hash and not the row's id: files number the same rows differently, and a
    subset must not depend on where the rows came from.
    """

    def rank(sample: Sample) -> tuple[str, str, str, str, str, str]:
        key = hashlib.sha256(f"{seed}\0{_digest(sample.prompt)}".encode()).hexdigest()
        tags = "\0".join(f"{name}\0{value}" for name, value in sorted(sample.tags.items()))
        return key, _CLASS[sample.harmful], sample.group, sample.id, tags, sample.reference

    copies: Counter[str] = Counter()
    numbered = []
    for sample in sorted(samples, key=rank):
        copies[sample.id] += 1
        n = copies[sample.id]
        # Some benchmarks hold a prompt twice. Both rows count, as in their papers.
        numbered.append(sample if n == 1 else replace(sample, id=f"{sample.id}-{n}"))
    return tuple(numbered)


def _differences(card: BenchmarkCard, n: int, found: str) -> Iterator[str]:
    if n != card.expected_rows:
        yield f"'{card.name}' has {n} rows, its card expects {card.expected_rows}"
    if not card.content_hash:
        yield (
            f"'{card.name}' was described without sight of its rows: there is nothing to compare "
            f"their content hash {found[:12]} with"
        )
    elif found != card.content_hash:
        yield (
            f"'{card.name}': these rows are not those of its card (content hash {found[:12]}, "
            f"expected {card.content_hash[:12]}); compare only with runs on the same rows"
        )


def _filter_text(card: BenchmarkCard) -> str:
    return ", ".join(
        f"{column} = {wanted if isinstance(wanted, str) else ' or '.join(wanted)}"
        for column, wanted in card.where.items()
    )
