"""The catalogue of leaderboards: a board.toml each, its entries, and the tables made from them."""

if __name__ != "tseval.leaderboards":
    # From the checkout's root, `import leaderboards` would load the same files a second time, with
    # classes that are not equal to the first ones.
    raise ImportError(
        f"imported as {__name__!r}; import this package as 'tseval.leaderboards'"
        "\nhint: `pip install -e .` in the checkout"
    )

from pathlib import Path

import tseval


@tseval.hookimpl
def register_leaderboards(register):
    """Register every folder of this package that holds a board."""
    for board in sorted(Path(__file__).parent.glob("*/board.toml")):
        register(board.parent)
