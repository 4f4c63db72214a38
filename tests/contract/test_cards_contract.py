"""Every card and suite in the tree keeps what the documentation says about cards."""

import importlib.util
import re
import subprocess
import sys
import time
from collections import Counter
from itertools import combinations
from pathlib import Path

import msgspec
import pytest

from tests.support.sessions import registry
from tseval.cards import BenchmarkCard, ProbeCard, Suite, read_catalogue
from tseval.data import load_rows, prompt_key
from tseval.types import Sample

PACKAGE = "tseval.benchmarks"
CATALOGUE = read_catalogue(PACKAGE)
CARDS = {card.name: card for card in CATALOGUE.cards}
ROWS = {
    "harmbench": 400,
    "harmbench_thinksafe": 602,
    "strongreject": 313,
    "wildjailbreak": 2000,
    "advbench": 520,
    "sorrybench": 440,
    "jailbreakbench": 100,
    "hexphi": 300,
    "fortress": 500,
    "wildguardtest": 754,
    "xstest": 450,
    "or_bench": 1319,
    "coconot": 379,
    "falsereject": 1187,
    "quick_harmful": 24,
    "quick_benign": 24,
    "probe_harmful": 60,
    "probe_benign": 60,
    "gsm8k": 1319,
    "math500": 500,
    "aime24": 30,
    "gpqa_diamond": 198,
    "mmlu_pro": 12032,
    "ifeval": 541,
}
REASONING = {"gsm8k", "math500", "aime24", "gpqa_diamond", "mmlu_pro", "ifeval"}
SUITES = {
    "quick": {"quick_harmful", "quick_benign"},
    "thinksafe": {"harmbench_thinksafe", "strongreject", "wildjailbreak", "xstest"},
    "reasoning": REASONING,
    "thinksafe-full": {
        *("harmbench_thinksafe", "strongreject", "wildjailbreak", "xstest"),
        *REASONING,
    },
    "over-refusal": {"xstest", "or_bench", "coconot", "falsereject"},
    "deliberation": {
        *("first_token", "prefill_decision", "valley", "prefix_commitment", "think_flip"),
        *("oscillation", "latent_harm"),
    },
    "safety": {
        *("harmbench", "strongreject", "wildjailbreak", "advbench", "sorrybench"),
        *("jailbreakbench", "hexphi", "fortress", "wildguardtest"),
    },
}

each_card = pytest.mark.parametrize("card", CATALOGUE.cards, ids=sorted(CARDS))
each_suite = pytest.mark.parametrize(
    "suite", CATALOGUE.suites, ids=[suite.name for suite in CATALOGUE.suites]
)


def test_the_cards_are_those_of_the_tree_with_the_published_row_counts() -> None:
    assert {card.name: card.expected_rows for card in CATALOGUE.cards} == ROWS


@each_card
def test_a_card_measures_what_its_kind_of_prompt_can_show(card: BenchmarkCard) -> None:
    wanted = {
        "harmful": {"asr_nonrefusal", "asr_harmful"},
        "benign": {"orr"},
        "mixed": {"orr", "asr_nonrefusal", "asr_harmful"},
        "reasoning": {"pass_at_1"},
    }
    assert set(card.metrics) == wanted[card.kind]


@each_card
def test_a_card_says_where_its_rows_are_published(card: BenchmarkCard) -> None:
    source = card.source
    if source.hub:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", source.hub)
        assert all(part.split for part in source.parts)
        assert re.fullmatch(r"[0-9a-f]{40}|", source.revision)
        assert source.revision or "commit is not pinned" in " ".join(card.note.split())
    if source.gated:
        assert source.access == f"https://huggingface.co/datasets/{source.hub}"
    assert re.match(r"arXiv:\d{4}\.\d{5}$|none, ", card.paper)


@each_card
def test_a_card_without_sight_of_the_rows_says_so(card: BenchmarkCard) -> None:
    assert bool(card.content_hash) != ("No content hash" in card.note)
    if not card.source.file:
        assert re.search(r"could not (be opened|look)|nobody could look", card.note)


@each_card
def test_a_card_survives_a_round_trip_through_json(card: BenchmarkCard) -> None:
    assert msgspec.json.decode(msgspec.json.encode(card), type=BenchmarkCard) == card


def test_the_unsafe_half_of_xstest_is_never_part_of_an_average() -> None:
    assert CARDS["xstest"].averages(harmful=False)
    assert not CARDS["xstest"].averages(harmful=True)


def test_harmbench_reports_its_three_parts_apart() -> None:
    card = CARDS["harmbench"]
    assert card.groups == ("standard", "contextual", "copyright")
    assert tuple(part.group for part in card.source.parts) == card.groups


@each_suite
def test_a_suite_names_existing_benchmarks(suite: Suite) -> None:
    assert set(suite.benchmarks) <= set(registry().benchmarks)
    assert set(suite.benchmarks) == SUITES[suite.name]


def test_every_probe_that_ships_is_in_the_suite_of_probes() -> None:
    cards = (benchmark.card for benchmark in registry().benchmarks.values())
    assert {card.name for card in cards if isinstance(card, ProbeCard)} == SUITES["deliberation"]


def test_the_promised_suites_are_there() -> None:
    assert {suite.name for suite in CATALOGUE.suites} == set(SUITES)


def shipped(pool: str) -> tuple[dict[str, Sample], dict[str, Sample]]:
    """The harmful and the benign prompts of a pool that ships with tseval, by id."""
    harmful, benign = (load_rows(CARDS[f"{pool}_{kind}"]).samples for kind in ("harmful", "benign"))
    return {s.id: s for s in harmful}, {s.id: s for s in benign}


@pytest.mark.parametrize(("pool", "size"), [("quick", 24), ("probe", 60)])
@pytest.mark.parametrize("kind", ["harmful", "benign"])
def test_shipped_prompts_are_complete_and_as_their_cards_say(
    pool: str, size: int, kind: str
) -> None:
    card = CARDS[f"{pool}_{kind}"]
    rows = load_rows(card)
    assert rows.warnings == ()
    wanted = [f"{pool}-{kind[0]}-{n:02d}" for n in range(1, size + 1)]
    assert sorted(s.id for s in rows.samples) == wanted
    assert all(sample.harmful is (kind == "harmful") for sample in rows.samples)
    assert card.answer_tokens == 256


@pytest.mark.parametrize("pool", ["quick", "probe"])
def test_shipped_prompts_are_twins_in_the_same_category(pool: str) -> None:
    harmful, benign = shipped(pool)
    assert Counter(s.tags["pair"] for s in harmful.values()) == Counter(list(benign))
    assert Counter(s.tags["pair"] for s in benign.values()) == Counter(list(harmful))
    for sample in harmful.values():
        twin = benign[sample.tags["pair"]]
        assert twin.tags["pair"] == sample.id
        assert twin.tags["category"] == sample.tags["category"]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", text.lower()))


def alike(left: str, right: str) -> float:
    """Jaccard similarity of the words of two texts."""
    return len(words(left) & words(right)) / len(words(left) | words(right))


def test_no_shipped_prompt_is_another_in_other_words() -> None:
    every = [s for pool in ("quick", "probe") for half in shipped(pool) for s in half.values()]
    assert len(every) == 168
    assert len({prompt_key(s.prompt) for s in every}) == 168
    pairs = combinations(every, 2)
    close = [(a.id, b.id) for a, b in pairs if alike(a.prompt, b.prompt) > 0.5]
    # A benign twin is made of the words of its harmful one.
    assert [pair for pair in close if pair[0].replace("-h-", "-b-") != pair[1]] == []


def test_a_benign_probe_prompt_shares_words_with_its_harmful_twin() -> None:
    harmful, benign = shipped("probe")
    others = list(benign.values())
    for sample in harmful.values():
        twin = benign[sample.tags["pair"]]
        shared = alike(sample.prompt, twin.prompt)
        rest = [alike(sample.prompt, other.prompt) for other in others if other is not twin]
        assert shared >= 0.15, sample.id
        assert shared > sum(rest) / len(rest), sample.id


def test_each_probe_prompt_has_a_category_of_its_own() -> None:
    harmful, _ = shipped("probe")
    categories = Counter(s.tags["category"] for s in harmful.values())
    assert max(categories.values()) == 1


@pytest.mark.parametrize(
    "folder", ["", "safety", "over_refusal", "quick", "reasoning", "deliberation"]
)
def test_a_catalogue_folder_refuses_to_be_imported_under_its_bare_name(
    root: Path, folder: str
) -> None:
    path = root / "benchmarks" / folder / "__init__.py"
    dotted = ".".join(filter(None, ("benchmarks", folder)))
    spec = importlib.util.spec_from_file_location(dotted, path)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=f"import this package as 'tseval.{dotted}'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_all_cards_load_in_a_moment() -> None:
    seconds = []
    for _ in range(5):
        start = time.process_time()
        read_catalogue(PACKAGE)
        seconds.append(time.process_time() - start)
    # A twentieth of a second on an idle machine; the fastest, for others may be busy and slow.
    assert min(seconds) < 0.5


def test_reading_the_cards_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "datasets", "pyarrow", "httpx"}
    program = (
        "import sys; from tseval.cards import read_catalogue; import tseval.data;"
        f"read_catalogue({PACKAGE!r}); print(sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=600
    )
    assert done.stdout.strip() == "[]"
