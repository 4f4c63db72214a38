"""Keep what is trained on apart from what is evaluated."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from tseval.data import prompt_key
from tseval.probes.groups import LEAST_SHARED, shingles
from tseval.types import Sample

from .records import Prompt

# A wrapped text is given away by this part of its shingles, of at least so many.
HELD, LEAST_HELD = 0.8, 6


def drop_near_duplicates(
    prompts: Sequence[Prompt], evaluated: Iterable[str]
) -> tuple[list[Prompt], int]:
    """Leave out prompts that equal an evaluated one, nearly equal it, or wrap or are wrapped by it.

    Exact: no pair is missed. Two texts are near-duplicates where the Jaccard index of their sets
    of shingles reaches one half: runs of three words, or of four characters in scripts without
    blanks, see ``tseval.probes.groups.shingles``. A text wraps another where it holds four fifths
    of its at least six shingles. Variants of one prompt, as their benchmark tells them, may share
    no words: where the name of their cluster is among the evaluated texts, all of them are left
    out. Pairs are not chained: a prompt that is like a dropped prompt only is kept.

    Args:
        prompts: What might be trained on.
        evaluated: Texts that are asked in an evaluation, and the clusters they belong to; see
            :func:`asked_texts`.

    Returns:
        What is left, in the same order, and how many are not.
    """
    texts = list(dict.fromkeys(evaluated))
    sets, keys = [shingles(text) for text in texts], {prompt_key(text) for text in texts}
    holders: dict[Any, list[int]] = defaultdict(list)
    for number, cut in enumerate(sets):
        for shingle in cut:
            holders[shingle].append(number)

    def is_near(prompt: Prompt) -> bool:
        if prompt.cluster and prompt_key(prompt.cluster) in keys:
            return True
        mine = shingles(prompt.text)
        shared = Counter(number for shingle in mine for number in holders.get(shingle, ()))
        return any(
            common >= LEAST_SHARED * (len(mine) + len(sets[number]) - common)
            or any(
                len(held) >= LEAST_HELD and common >= HELD * len(held)
                for held in (sets[number], mine)
            )
            for number, common in shared.items()
        )

    kept = [prompt for prompt in prompts if not is_near(prompt)]
    return kept, len(prompts) - len(kept)


def asked_texts(samples: Iterable[Sample]) -> list[str]:
    """Return what must not be trained on where these are asked: each prompt, and each cluster.

    The name of a cluster keeps out its other prompts, which may share no words with these.
    """
    found: dict[str, None] = {}
    for sample in samples:
        found[sample.prompt] = None
        if cluster := sample.tags.get("cluster"):
            found[cluster] = None
    return list(found)
