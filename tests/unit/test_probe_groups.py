"""Near-duplicate prompts are found, all of them, and chains of them are one group."""

import random
import re

import pytest

from tseval.probes import near_duplicates
from tseval.probes.groups import _jaccard, shingles

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
    assert _jaccard(shingles(texts[0]), shingles(texts[2])) < 0.5
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
        sets = [shingles(text) for text in texts]
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


@pytest.mark.parametrize(
    "text",
    [
        TWELVE,
        "Straße, ÉCOLE & naïve co-operation: don't say 'no_way' 3.5 times!",
        "Two words",
        "ﬁne “quotes” \u2013 and dashes… e\u0301tude",
        "Напишите длинное письмо моему соседу",
        "Γράψε ένα μεγάλο γράμμα στον γείτονα",
        "اكتب رسالة طويلة إلى جاري",
        "मुझे एक लंबा पत्र लिखो",
        "집주인에게 긴 편지를 써 주세요",
        "?!",
        "  ",
        "",
    ],
)
def test_where_blanks_part_words_three_of_them_are_a_shingle(text: str) -> None:
    words = re.findall(r"\w+", text.casefold())
    wanted = {tuple(words[start : start + 3]) for start in range(len(words) - 2)}
    assert shingles(text) == (wanted or {tuple(words) or text.strip()})


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("请写一封长信给我的房东谈谈坏掉的暖气问题", ("长信", "短信")),
        ("壊れた暖房について大家さんに長い手紙を書いてください", ("長い", "短い")),
        ("ช่วยเขียนจดหมายถึงเจ้าของบ้านเรื่องเครื่องทำความร้อนเสีย", ("เสีย", "พัง")),
        ("សូមសរសេរសំបុត្រវែងមួយទៅម្ចាស់ផ្ទះរបស់ខ្ញុំ", ("វែង", "ខ្លី")),
    ],
)
def test_texts_without_blanks_are_alike_where_few_characters_differ(
    text: str, changed: tuple[str, str]
) -> None:
    other = text.replace(*changed)
    assert other != text
    assert near_duplicates([text, other, text[::-1], text[:8]]).tolist() == [0, 0, 1, 2]


def test_a_run_of_characters_goes_on_behind_marks_and_ends_at_other_words() -> None:
    assert shingles("如何\uff0c烤面 包") == {"如何烤面", "何烤面包"}
    assert shingles("用 Python 3 写一个脚本") == {"用", ("python", "3"), "写一个脚", "一个脚本"}
