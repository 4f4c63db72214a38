"""The local mirror holds the rows that the cards describe, HarmBench's contexts included."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from tseval.cards import read_catalogue
from tseval.data import cluster_of, content_hash, load_rows, prompt_key
from tseval.tables import find_file

CARDS = {card.name: card for card in read_catalogue("tseval.benchmarks").cards}
SEEN = sorted(name for name, card in CARDS.items() if card.content_hash and not card.source.file)


@pytest.mark.parametrize("name", SEEN)
def test_a_mirror_file_has_the_rows_and_the_hash_of_its_card(mirror: Path, name: str) -> None:
    rows = load_rows(CARDS[name], [mirror])
    assert rows.n_total == CARDS[name].expected_rows
    assert rows.content_hash == CARDS[name].content_hash
    assert rows.warnings == ()
    assert rows.origin == str(find_file(name, [mirror]))


def test_each_prompt_file_of_the_mirror_has_a_card_with_a_hash(mirror: Path) -> None:
    folders = (mirror / "prompts", mirror / "reasoning")
    assert sorted(path.stem for folder in folders for path in folder.iterdir()) == SEEN


def test_harmbench_rows_in_the_hubs_form_hash_like_the_mirror(mirror: Path, tmp_path: Path) -> None:
    lines = (mirror / "prompts" / "harmbench.jsonl").read_text(encoding="utf-8").splitlines()
    # The authors' own columns: behaviour and context apart.
    rows = [
        {
            "Behavior": row["behavior"],
            "ContextString": row["context"] or "",
            "FunctionalCategory": row["functional_category"],
        }
        for row in map(json.loads, lines)
    ]
    text = "\n".join(map(json.dumps, rows))
    (tmp_path / "harmbench.jsonl").write_text(text, encoding="utf-8")
    assert load_rows(CARDS["harmbench"], [tmp_path]).content_hash == (
        CARDS["harmbench"].content_hash
    )


def test_the_context_of_a_contextual_row_is_there_once(mirror: Path) -> None:
    file = mirror / "prompts" / "harmbench.jsonl"
    contexts = {
        row["id"]: row["context"].strip()
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines())
        if row["functional_category"] == "contextual"
    }
    samples = load_rows(CARDS["harmbench"], [mirror]).samples
    contextual = [sample for sample in samples if sample.group == "contextual"]
    assert len(contextual) == 100
    for sample in contextual:
        assert sample.prompt.count(contexts[sample.tags["id"]]) == 1
        assert sample.prompt.count("\n\n---\n\n") == 1


def test_thinksafes_prompts_are_301_clusters_of_two(mirror: Path) -> None:
    members = defaultdict(list)
    for sample in load_rows(CARDS["harmbench_thinksafe"], [mirror]).samples:
        members[cluster_of(sample)].append(sample.id)
    assert len(members) == 301
    assert {len(ids) for ids in members.values()} == {2}


def test_xstest_has_250_benign_and_200_harmful_prompts(mirror: Path) -> None:
    samples = load_rows(CARDS["xstest"], [mirror]).samples
    assert sum(sample.harmful is False for sample in samples) == 250
    assert sum(sample.harmful is True for sample in samples) == 200


def test_a_limit_on_xstest_counts_both_halves_together_and_nests(mirror: Path) -> None:
    ids = {
        n: [s.id for s in load_rows(CARDS["xstest"], [mirror], limit=n).samples] for n in (30, 60)
    }
    assert [len(ids[30]), len(ids[60])] == [30, 60]
    assert ids[60][:30] == ids[30]


def test_25_prompts_occur_in_more_than_one_harmful_benchmark(mirror: Path) -> None:
    owners = defaultdict(set)
    for name in ("advbench", "harmbench", "strongreject", "wildjailbreak"):
        for sample in load_rows(CARDS[name], [mirror]).samples:
            owners[prompt_key(sample.prompt)].add(name)
    assert sum(len(names) > 1 for names in owners.values()) == 25


def test_the_hash_sees_a_changed_label(mirror: Path) -> None:
    samples = list(load_rows(CARDS["xstest"], [mirror]).samples)
    before = content_hash(samples)
    flipped = [type(s)(id=s.id, prompt=s.prompt, harmful=not s.harmful) for s in samples[:1]]
    assert content_hash(flipped + samples[1:]) != before
