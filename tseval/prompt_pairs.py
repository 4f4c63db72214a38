"""Two runs of a probe paired by prompt: what each keeps of its prompts, and their difference."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import structs

from .errors import StatisticsError
from .measurements import ByPrompt
from .outcomes import hashes_of
from .stats_paired import paired
from .types import Estimate

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

# With fewer prompts in common a spread between them is hardly known.
LEAST_PAIRS = 10


def by_prompt(
    rows: Sequence[str], clusters: "ArrayLike", hits: "ArrayLike", answers: "ArrayLike"
) -> ByPrompt | None:
    """Keep what a share comes to on each prompt, so that another run can be paired with it.

    Args:
        rows: Of each member (a trace, or a prompt) its prompt's name, by ``row_hash``.
        clusters: int [members]; prompts with equal ones are not independent.
        hits: float [members], answers that count: between 0 and ``answers``.
        answers: int [members], answers in the denominator; a prompt without any is left out.

    Returns:
        None where no prompt has an answer, or prompts have no names.

    Raises:
        StatisticsError: Members do not fit each other, or count more than there is.
    """
    import numpy as np

    top, bottom = np.asarray(hits, dtype=float), np.asarray(answers, dtype=np.int64)
    groups = np.asarray(clusters)
    if not rows:
        return None
    if not len(rows) == len(top) == len(bottom) == len(groups):
        raise StatisticsError("prompts, clusters, hits and answers are lists of one length")
    if bool((top < 0).any()) or bool((top > bottom).any()):
        raise StatisticsError("hits lie between 0 and the answers that they are of")
    names, first, place = np.unique(np.asarray(rows), return_index=True, return_inverse=True)
    sums, sizes = np.bincount(place, top), np.bincount(place, bottom).astype(np.int64)
    left = sizes > 0
    if not left.any():
        return None
    return ByPrompt(
        rows="".join(names[left]),
        clusters=tuple(int(each) for each in groups[first][left]),
        means=tuple(float(each) for each in sums[left] / sizes[left]),
        answers=tuple(int(each) for each in sizes[left]),
    )


def paired_by_prompt(before: ByPrompt | None, after: ByPrompt | None) -> Estimate | None:
    """Estimate a difference, after less before, on the prompts that both have.

    By ``stats_paired.paired``, as rows of benchmarks are compared; prompts count equally, however
    many answers they have. Prompts that either run holds for near-duplicates count together.

    Returns:
        None where a side kept no prompts, or fewer than ten are common: such sides can be taken
        for independent samples only.

    Raises:
        StatisticsError: A side's lists do not fit each other.
    """
    if before is None or after is None:
        return None
    import numpy as np

    sides = [_columns(side) for side in (before, after)]
    names, *places = np.intersect1d(sides[0][0], sides[1][0], return_indices=True)
    if len(names) < LEAST_PAIRS:
        return None
    (_, groups, old, few), (_, others, new, many) = (
        tuple(column[at] for column in side) for side, at in zip(sides, places, strict=True)
    )
    found = paired(new, old, _joined(groups, others), np.minimum(few, many)).interval()
    most = max(len(side[0]) for side in sides)
    of = f" of {most}" if len(names) < most else ""
    return structs.replace(found, method=f"paired by prompt, n={len(names)}{of} ({found.method})")


def _columns(side: ByPrompt) -> tuple["NDArray[Any]", ...]:
    import numpy as np

    names = hashes_of(side.rows)
    columns = (side.clusters, side.means, side.answers)
    if {len(names)} != {len(each) for each in columns} or len(set(names)) < len(names):
        raise StatisticsError("what a measurement keeps of its prompts does not fit itself")
    return names, *map(np.asarray, columns)


def _joined(groups: "NDArray[Any]", others: "NDArray[Any]") -> "NDArray[Any]":
    """Number the prompts' clusters, where prompts of a cluster of either run belong together."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    (_, one), (_, two) = (np.unique(each, return_inverse=True) for each in (groups, others))
    size = int(one.max()) + 1 + int(two.max()) + 1
    links = (one, two + int(one.max()) + 1)
    graph = coo_array((np.ones(len(one)), links), shape=(size, size))
    numbers: NDArray[Any] = connected_components(graph, directed=False)[1]
    return numbers[one]
