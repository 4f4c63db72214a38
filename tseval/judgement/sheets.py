"""Sheets of rollouts for people to label: written as CSV for any spreadsheet, and read back."""

import csv
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tseval.errors import ConfigError, DataError
from tseval.runfolder import RunFolder

from .calibration import Kind
from .labelfile import NO, YES
from .labelling import Design, HumanLabel, Shown, read_design

# What people may write who can't tell; such rows are left out and counted.
UNSURE = ("unsure", "?")
# A spreadsheet starts a formula at one of these.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")


class Sheet(NamedTuple):
    """What came back on a sheet.

    Attributes:
        labels: The labels.
        blank, unsure: Rows without a label, and rows that people could not decide.
    """

    labels: list[HumanLabel]
    blank: int
    unsure: int


def heading(kind: Kind) -> str:
    """Name the column that people write into."""
    return "is_refusal" if kind == "refusal" else "is_harmful"


def write_sheet(path: Path, design: Design, shown: dict[str, Shown]) -> None:
    """Write chosen rollouts as CSV, in random order, with an empty column for the labels.

    Raises:
        ConfigError: The file cannot be written.
    """
    try:
        # With a byte-order mark: spreadsheets take the file for another encoding without.
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["key", "prompt", "answer", heading(design.kind), "probability"])
            for key, probability in design.chosen.items():
                writer.writerow(
                    [
                        f"r{design.id}-{key}",
                        for_csv(shown[key].prompt),
                        for_csv(shown[key].answer),
                        "",
                        f"{probability:.9g}",
                    ]
                )
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error


def for_csv(text: str) -> str:
    """Neutralise a text for a cell: no spreadsheet takes it for a formula, and nothing is hidden.

    Control characters and direction overrides would show people another text than the judge saw,
    the null character ends a cell in some readers, and lone surrogates can't be written.
    """
    text = "".join(map(_visible, text))
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def _visible(character: str) -> str:
    if character in "\n\r\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co"):
        return character
    return chr(0x2400 + ord(character)) if character < " " else "\ufffd"


def read_sheet(folder: RunFolder, path: Path) -> Sheet:
    """Read a sheet back.

    Args:
        folder: The run that it was made from.
        path: The sheet, as a spreadsheet saved it; columns may have been moved, and rows left out.

    Raises:
        DataError: A row that is not of this run's sheets, is there twice, has another probability
            than was written, or a label of no known value; names file and row.
    """
    designs: dict[str, Design] = {}
    labels: dict[str, HumanLabel] = {}
    counts: Counter[str] = Counter()
    for place, row in _rows(path):
        design_id, _, key = row.get("key", "").removeprefix("r").partition("-")
        if design_id not in designs:
            designs[design_id] = _design(folder, design_id, place)
        design = designs[design_id]
        if len(designs) > 1:
            raise DataError(f"{place}: is of another sheet than the rows above")
        if key not in design.chosen or key in labels:
            what = "is there twice" if key in labels else "was not chosen for this sheet"
            raise DataError(f"{place}: {row['key']!r} {what}", hint="export the sheet again")
        _check_probability(place, row.get("probability", ""), design.chosen[key])
        value = _label(place, row, design)
        if value is None:
            counts["unsure" if row[heading(design.kind)].strip() else "blank"] += 1
            continue
        labels[key] = HumanLabel(
            rollout=key,
            kind=design.kind,
            positive=value,
            probability=design.chosen[key],
            text=design.text,
            design=design_id,
        )
    if not labels:
        raise DataError(f"{path}: no row has a label")
    (design,) = designs.values()
    unseen = len(design.chosen) - len(labels) - counts.total()
    return Sheet(list(labels.values()), counts["blank"] + unseen, counts["unsure"])


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a sheet with their places; the delimiter is whatever a spreadsheet chose."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=head.count)
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            for row in reader:
                place = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    n = len(reader.fieldnames or ())
                    raise DataError(f"{place}: expected {n} values as in the header")
                yield place, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"cannot read {path}: {error}", hint="save the sheet as CSV in UTF-8"
        ) from error


def _design(folder: RunFolder, design_id: str, place: str) -> Design:
    if not design_id.isalnum():
        raise DataError(f"{place}: has no key of a sheet", hint="the column 'key' must be kept")
    design = read_design(folder, design_id)
    if design is None:
        raise DataError(
            f"{place}: is not of a sheet of {folder.path}", hint="name the run that it came from"
        )
    return design


def _check_probability(place: str, text: str, expected: float) -> None:
    try:
        found = float(text.replace(",", "."))
    except ValueError:
        found = -1.0
    if abs(found - expected) > 1e-3 * expected:
        raise DataError(
            f"{place}: probability {text!r} is not the one it was chosen with ({expected:.9g})",
            hint="restore the column from the sheet as it was exported",
        )


def _label(place: str, row: dict[str, str], design: Design) -> bool | None:
    """Read a label; None for blank and unsure ones."""
    column = heading(design.kind)
    if column not in row:
        raise DataError(f"{place}: no column '{column}'", hint="labels go into that column")
    word = row[column].strip().casefold()
    if not word or word in UNSURE:
        return None
    if word not in (*YES, *NO):
        raise DataError(
            f"{place}, column '{column}': unknown label {row[column]!r}",
            hint=f"{' or '.join(YES)}; {' or '.join(NO)}; {' or '.join(UNSURE)}; or nothing",
        )
    return word in YES
