"""Near-duplicate prompts: what must not stand on both sides of a cross-validation.

Benchmarks share prompts, word for word or nearly so. A probe that has seen one of a pair knows
the other, so folds and intervals treat the pair as one.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from math import ceil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Runs of so many words are compared ...
SHINGLE_WORDS = 3
# ... and two prompts that share this part of theirs are one: a word changed among twelve leaves
# 0.54 of them, two halves exchanged leave nearly all.
LEAST_SHARED = 0.5
# Of scripts that part no words by blanks, runs of so many characters: a word of two characters
# changed among twenty leaves 0.55 of them.
SHINGLE_CHARACTERS = 4
_UNPARTED = (
    "\u0e00-\u109f"  # Thai, Lao, Tibetan, Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3005-\u3007\u3041-\u30fa\u30fc-\u312f\u31a0-\u31ff"  # kana, bopomofo, marks of Han
    "\u3400-\u4dbf\u4e00-\ua4cf"  # Han, Yi
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"  # Han and kana, elsewhere
)
# Their vowels and tones may be marks, which are no part of a word elsewhere.
_UNIT = re.compile(rf"[{_UNPARTED}]+|[^\W{_UNPARTED}]+")
_IS_UNPARTED = re.compile(f"[{_UNPARTED}]")


def near_duplicates(
    texts: Sequence[str],
    *,
    shared: float = LEAST_SHARED,
    keys: Sequence[str] | None = None,
) -> "NDArray[np.int64]":
    """Group texts that are equal or nearly so, and what is linked by a chain of them.

    Exact: no pair above the threshold is missed. A text is compared only with those that share
    one of its rarest shingles, of which a pair above the threshold shares at least one.

    Args:
        texts: Prompts.
        shared: Least Jaccard index, in (0, 1], of the sets of :func:`shingles`.
        keys: Further reason to belong together: texts with equal keys do ('' never).

    Returns:
        int [texts], groups numbered from 0 in the order in which they first occur.

    Source: Prefix filtering for set similarity joins: Chaudhuri, Ganti and Kaushik (2006).
    """
    import numpy as np

    sets = [shingles(text) for text in texts]
    groups = _Groups(len(texts))
    for left, right in _candidates(sets, shared):
        if groups.root(left) != groups.root(right) and _jaccard(sets[left], sets[right]) >= shared:
            groups.join(left, right)
    seen: dict[str, int] = {}
    for place, key in enumerate(keys or ()):
        if key:
            groups.join(seen.setdefault(key, place), place)
    numbers: dict[int, int] = {}
    roots = (groups.root(place) for place in range(len(texts)))
    return np.asarray([numbers.setdefault(root, len(numbers)) for root in roots], dtype=np.int64)


def shingles(text: str) -> frozenset[Any]:
    """Cut a text into the runs that near-duplicates share; case and punctuation are ignored.

    A run has three consecutive words. Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan and Yi
    part no words by blanks: where these are written, it has four consecutive characters. A text
    in both is cut where one meets the other, and a stretch too short for a run is one shingle.
    """
    found: set[Any] = set()
    units = _UNIT.findall(text.casefold())
    for unparted, stretch in groupby(units, lambda unit: bool(_IS_UNPARTED.match(unit))):
        if unparted:
            found |= _runs("".join(stretch), SHINGLE_CHARACTERS)
        else:
            found |= _runs(tuple(stretch), SHINGLE_WORDS)
    # A text of marks only is its own shingle, so that it equals nothing but itself.
    return frozenset(found or [text.strip()])


def _runs(units: Sequence[str], size: int) -> set[Any]:
    return {units[start : start + size] for start in range(max(len(units) - size, 0) + 1)}


def _jaccard(left: frozenset[Any], right: frozenset[Any]) -> float:
    common = len(left & right)
    return common / (len(left) + len(right) - common)


def _candidates(sets: Sequence[frozenset[Any]], shared: float) -> Iterator[tuple[int, int]]:
    """Yield pairs that share a rare shingle: all above the threshold, and some below it."""
    counts: dict[Any, int] = defaultdict(int)
    for each in sets:
        for shingle in each:
            counts[shingle] += 1
    holders: dict[Any, list[int]] = defaultdict(list)
    for place, each in enumerate(sets):
        rarest = sorted(each, key=lambda shingle: (counts[shingle], str(shingle)))
        # Any pair that is alike shares one of each side's first n - ceil(t n) + 1.
        partners: set[int] = set()
        for shingle in rarest[: len(rarest) - ceil(shared * len(rarest)) + 1]:
            if counts[shingle] > 1:
                partners.update(holders[shingle])
                holders[shingle].append(place)
        yield from ((partner, place) for partner in sorted(partners))


class _Groups:
    """Disjoint sets of numbers."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def root(self, place: int) -> int:
        while self._parent[place] != place:
            self._parent[place] = self._parent[self._parent[place]]
            place = self._parent[place]
        return place

    def join(self, left: int, right: int) -> None:
        left, right = sorted((self.root(left), self.root(right)))
        self._parent[right] = left
