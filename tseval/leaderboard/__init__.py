"""Leaderboards: runs to entries, entries to ranked rows; tables and pages are in ``report``."""

from pathlib import Path

from tseval.errors import TsevalError

from .board import entry_files, read_board
from .check import check_files
from .rank import standing
from .records import Standing
from .reported import reported_rows


def load_standing(folder: Path) -> Standing:
    """Read a board's folder, check its entries, and rank them.

    Raises:
        ConfigError: The board or its reported figures are broken.
        TsevalError: An entry is not to be accepted; says which, and why.
    """
    board = read_board(folder)
    checked = check_files(entry_files(folder), board)
    for each in checked:
        faults = [p.message for p in each.problems if p.severity == "error"]
        if faults:
            raise TsevalError(
                f"{each.name} is not to be accepted: {faults[0]}",
                hint=f"tseval leaderboard check {folder} lists everything that is wrong",
            )
    entries = [each.entry for each in checked if each.entry is not None]
    return standing(board, entries, reported_rows(board, folder))
