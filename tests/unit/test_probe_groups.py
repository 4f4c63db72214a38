"""Near-duplicate prompts are found, all of them, and chains of them are one group."""

import random

from tseval.probes import near_duplicates
from tseval.probes.groups import _jaccard, _shingles

TWELVE = "please write a long letter to my landlord about the broken heating"


def test_equal_and_nearly_equal_texts_are_one_group() -> None:
    texts = [
        TWELVE,
        TWELVE.upper() + "!",
        TWELVE.replace("long", "short"),
        "please write a poem about the sea",
        "",
        "?",
        "??",
        "",
    ]
    assert near_duplicates(texts).tolist() == [0, 0, 0, 1, 2, 3, 4, 2]


def test_what_is_linked_by_a_chain_is_one_group() -> None:
    words = TWELVE.split()
    near = [*words[:5], "angry", *words[6:]]
    far = [*near[:10], "door", "handle"]
    texts = [" ".join(each) for each in (words, near, far)]
    assert _jaccard(_shingles(texts[0]), _shingles(texts[2])) < 0.5
    assert near_duplicates(texts).tolist() == [0, 0, 0]


def test_texts_with_one_key_are_one_group_and_empty_keys_are_none() -> None:
    texts = ["how do I bake bread", "where is the station", "who wrote this", "what is that"]
    assert near_duplicates(texts, keys=["", "a", "", "a"]).tolist() == [0, 1, 2, 1]


def test_no_pair_above_the_threshold_is_missed() -> None:
    rng = random.Random(0)
    words = [f"w{n}" for n in range(9)]
    texts = []
    for _ in range(120):
        base = rng.choice(texts).split() if texts and rng.random() < 0.6 else []
        base = base or [rng.choice(words) for _ in range(rng.randint(3, 14))]
        base[rng.randrange(len(base))] = rng.choice(words)
        texts.append(" ".join(base))
    for shared in (0.3, 0.5, 0.8, 1.0):
        groups = near_duplicates(texts, shared=shared)
        sets = [_shingles(text) for text in texts]
        linked = list(range(len(texts)))
        for left in range(len(texts)):
            for right in range(left):
                if _jaccard(sets[left], sets[right]) >= shared:
                    old, new = linked[left], linked[right]
                    linked = [new if each == old else each for each in linked]
        pairs = {(a, b) for a in range(120) for b in range(a)}
        assert {p for p in pairs if groups[p[0]] == groups[p[1]]} == {
            p for p in pairs if linked[p[0]] == linked[p[1]]
        }
