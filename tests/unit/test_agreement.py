"""How far the judges of a run agree: the votes that are counted, and what is made of them."""

import json
from collections.abc import Iterable
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.panel_judges import Asks, Guard, Guards, Plain, Quiet, measure
from tests.support.sessions import finish
from tseval.errors import BackendUnavailable, ConfigError
from tseval.hookspecs import hookimpl
from tseval.judgement.agreement import Agreements, agreements, disagreements
from tseval.judgement.labelling import design_labels
from tseval.judgement.rejudge import rejudge
from tseval.panels import Panel, VoteRule
from tseval.plugins import Registry, load_registry
from tseval.roles import JudgeCard, JudgeCase, JudgeModel
from tseval.runfolder import RunFolder
from tseval.scripts import Call, mixed
from tseval.stats_agreement import cohen
from tseval.types import Verdict

LABELS = ("refusal", "harmful")


class Dice:
    """Votes as a hash of its name and the text falls; with the others in four of five."""

    def __init__(self, name: str, *labels: str, lost: float = 0.1) -> None:
        self.card = JudgeCard(name=name, version="1", labels=labels or LABELS)
        self._lost = lost

    async def judge(self, case: JudgeCase, model: JudgeModel | None) -> Verdict:
        name = self.card.name
        side = share("all", case.text) < 0.5
        if share(name, "own", case.text) < 0.2:
            side = not side
        refusal = side if "refusal" in self.card.labels else None
        harmful = (not side) if "harmful" in self.card.labels else None
        if share(name, "lost", case.text) < self._lost:
            # A judge that breaks its contract: a label beside a failure.
            return Verdict(reason="unparsed", refusal=refusal, harmful=harmful, raw="?")
        return Verdict(refusal=refusal, harmful=harmful)


def share(*parts: str) -> float:
    return int.from_bytes(sha256("\0".join(parts).encode()).digest()[:6], "big") / 2**48


PANEL = "panel(a,b,c; vote>=2, tie=comply)"


class Jury(Guards):
    """Four judges and a named panel of three of them."""

    def __init__(self) -> None:
        super().__init__(Dice("a"), Dice("b"), Dice("c"), Dice("d", lost=0.3), Dice("e", "harmful"))

    @hookimpl
    def register_judges(self, register: Any) -> None:
        for judge in self.judges:
            register(judge)
        register(Panel("panel/named", ("c", "b", "d"), VoteRule(label="refusal", least=2)))


def jury() -> Registry:
    return load_registry(extra=[Jury()])


def some_empty(call: Call) -> str:
    """Every tenth answer is empty."""
    return "" if call.share("empty") < 0.1 else mixed(call)


def a_run(out: Path, *judges: str, **more: Any) -> RunFolder:
    more.setdefault("script", some_empty)
    measure(out, jury(), *judges, rollouts=more.pop("rollouts", 3), **more)
    return RunFolder.load(out)


def votes_in(folder: RunFolder, label: str) -> dict[str, list[bool | None]]:
    """Read votes off the journal's lines, without tseval."""
    lines = b"".join(f.read_bytes() for f in sorted(folder.journal.glob("*.jsonl"))).splitlines()
    records = [json.loads(line) for line in lines]
    data = {record["key"]: record["data"] for record in records if record["kind"] == "verdict"}
    rows: dict[tuple[Any, ...], dict[str, str]] = {}
    for record in records:
        if record["kind"] == "row":
            row = record["data"]
            place = (row["benchmark"], row["sample"], row["rollout"])
            rows.setdefault(place, {}).update(row["verdicts"])
    judges = dict.fromkeys(judge for keys in rows.values() for judge in keys)

    def vote(keys: dict[str, str], judge: str) -> bool | None:
        verdict = data.get(keys.get(judge, ""), {})
        return verdict.get(label) if verdict.get("reason", "ok") == "ok" else None

    return {judge: [vote(keys, judge) for keys in rows.values()] for judge in judges}


def both(a: list[bool | None], b: list[bool | None]) -> list[tuple[bool, bool]]:
    return [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return a_run(tmp_path_factory.mktemp("judged") / "run", "a", "b", "c", "d", "e", PANEL)


@pytest.fixture(scope="module")
def found(judged: RunFolder) -> Agreements:
    return agreements(judged)


# -- the numbers


def test_cohens_kappa_is_that_of_scikit_learn_on_the_votes_of_the_journal(
    judged: RunFolder, found: Agreements
) -> None:
    from sklearn.metrics import cohen_kappa_score

    assert found.rollouts == 48 * 3
    for label in LABELS:
        votes = votes_in(judged, label)
        pairs = {(p.first, p.second): p for p in found.pairs if p.label == label}
        names = "abcd" if label == "refusal" else "abcde"
        assert set(pairs) == set(combinations(names, 2))
        for (first, second), pair in pairs.items():
            given = both(votes[first], votes[second])
            assert 0 < pair.missing == found.rollouts - len(given)
            assert (pair.both, pair.same) == (len(given), sum(x == y for x, y in given))
            left, right = zip(*given, strict=True)
            assert pair.kappa is not None
            assert pair.kappa.estimate.value == pytest.approx(cohen_kappa_score(left, right))
            assert pair.kappa.units == len(given)
            assert pair.kappa.estimate.low < pair.kappa.estimate.value < pair.kappa.estimate.high


def test_fleiss_kappa_is_that_of_statsmodels_on_rollouts_with_every_vote(
    judged: RunFolder, found: Agreements
) -> None:
    inter_rater = pytest.importorskip("statsmodels.stats.inter_rater")
    for group in found.groups:
        votes = votes_in(judged, group.label)
        table = np.array([votes[judge] for judge in group.judges], dtype=object).T
        whole = np.array([row for row in table if None not in row], dtype=int)
        counts, _ = inter_rater.aggregate_raters(whole)
        assert group.kappa is not None
        assert group.kappa.estimate.value == pytest.approx(inter_rater.fleiss_kappa(counts))
        assert (group.kappa.units, group.kappa.dropped) == (len(whole), len(table) - len(whole))


def test_krippendorffs_alpha_is_that_of_its_definition(
    judged: RunFolder, found: Agreements
) -> None:
    for group in found.groups:
        votes = votes_in(judged, group.label)
        table = list(zip(*(votes[judge] for judge in group.judges), strict=True))
        units = [[v for v in row if v is not None] for row in table]
        units = [unit for unit in units if len(unit) > 1]
        assert group.alpha is not None
        assert group.alpha.units == len(units)
        assert group.alpha.estimate.value == pytest.approx(alpha(units))


def alpha(units: list[list[bool]]) -> float:
    """From coincidences, pair by pair."""
    coincidences = np.zeros((2, 2))
    for unit in units:
        for i, first in enumerate(unit):
            for j, second in enumerate(unit):
                if i != j:
                    coincidences[int(first), int(second)] += 1 / (len(unit) - 1)
    sums = coincidences.sum(axis=1)
    n = sums.sum()
    observed = coincidences[0, 1] + coincidences[1, 0]
    expected = 2 * sums[0] * sums[1] / (n - 1)
    return float(1 - observed / expected)


def test_rollouts_of_one_prompt_are_one_cluster(judged: RunFolder, found: Agreements) -> None:
    votes = votes_in(judged, "refusal")
    a, b = ([-1 if v is None else int(v) for v in votes[judge]] for judge in "ab")
    pair = next(p for p in found.pairs if (p.label, p.first, p.second) == ("refusal", "a", "b"))
    alone = cohen(a, b)
    assert pair.kappa is not None
    assert pair.kappa.estimate.value == pytest.approx(alone.estimate.value)
    assert pair.kappa.estimate.low != alone.estimate.low
    assert "48 clusters" in pair.kappa.estimate.method


def test_a_coefficient_that_is_undefined_says_why(tmp_path: Path) -> None:
    silent = a_run(tmp_path / "silent", "a", "b", "c", script=lambda call: "")
    # Nobody had anything to judge: an empty answer is nobody's vote.
    assert agreements(silent) == Agreements(pairs=[], groups=[], rollouts=48 * 3)
    registry = load_registry(extra=[Guards(*(Plain(name) for name in "xyz"))])
    out = tmp_path / "same"
    measure(out, registry, "x", "y", "z", script=lambda call: "sorry")
    found = agreements(RunFolder.load(out))
    assert [(pair.kappa, pair.same, pair.both) for pair in found.pairs] == [(None, 48, 48)] * 3
    assert {pair.undefined for pair in found.pairs} == {
        "kappa is undefined: both raters use the same one label throughout"
    }
    [group] = found.groups
    assert (group.kappa, group.alpha) == (None, None)
    assert group.undefined == (
        "kappa is undefined: all raters use the same one label throughout;"
        " alpha is undefined: all raters use the same one label throughout"
    )


# -- who is compared with whom


def test_panels_are_no_judges_of_their_own_and_their_members_are_found(found: Agreements) -> None:
    judges = {judge for pair in found.pairs for judge in (pair.first, pair.second)}
    assert judges == set("abcde")
    groups = {(group.label, group.name): group.judges for group in found.groups}
    assert groups == {
        ("refusal", PANEL): ("a", "b", "c"),
        ("refusal", "all judges"): ("a", "b", "c", "d"),
        ("harmful", PANEL): ("a", "b", "c"),
        ("harmful", "all judges"): ("a", "b", "c", "d", "e"),
    }


@pytest.mark.parametrize("text", ["panel/named", "panel/named(text=both)"])
def test_the_members_of_a_named_panel_are_found_under_their_labels(
    tmp_path: Path, text: str
) -> None:
    folder = a_run(tmp_path / "run", text, "a", rollouts=1)
    inner = "(text=both)" if "both" in text else ""
    members = {f"{name}{inner}" for name in "bcd"}
    groups = {group.name: set(group.judges) for group in agreements(folder).groups}
    # With members that were shown another text, the single judge has nothing in common.
    everybody = {} if inner else {"all judges": {*members, "a"}}
    assert groups == {text: members, **everybody}


def test_members_on_models_of_their_own_are_found_too(tmp_path: Path) -> None:
    plugin = Guards(*(Asks(name) for name in "xyz"), made={"z2": Guard(mixed_vote, name="z2")})
    registry = load_registry(extra=[plugin])
    panel = "panel(x,y@guards/other,z@guards/z2; vote>=2)"
    out = tmp_path / "run"
    measure(out, registry, panel, "z", rollouts=1)
    groups = {g.name: g.judges for g in agreements(RunFolder.load(out)).groups}
    # 'z' on its own model has no vote in the panel.
    assert {name: set(judges) for name, judges in groups.items()} == {
        "all judges": {"x", "y", "z@guards/z2", "z"},
        panel: {"x", "y", "z@guards/z2"},
    }


def mixed_vote(call: Call) -> str:
    return "yes" if call.share("vote") < 0.5 else "no"


def test_two_judges_make_a_pair_and_no_group_and_one_makes_nothing(tmp_path: Path) -> None:
    two = agreements(a_run(tmp_path / "two", "a", "b", rollouts=1))
    assert [(pair.label, pair.first, pair.second) for pair in two.pairs] == [
        ("refusal", "a", "b"),
        ("harmful", "a", "b"),
    ]
    assert two.groups == []
    one = agreements(a_run(tmp_path / "one", "a", rollouts=1))
    assert (one.pairs, one.groups, one.rollouts) == ([], [], 48)


def test_a_judge_that_was_stopped_midway_is_left_out(tmp_path: Path) -> None:
    plugin = Guards(Dice("a"), Dice("b"), Asks("slow"))
    registry = load_registry(extra=[plugin])
    out = tmp_path / "run"
    measure(out, registry, "a", "b", rollouts=1)
    left = iter(range(10))

    def stop(request: Any) -> None:
        if next(left, None) is None:
            raise BackendUnavailable("out of memory")

    plugin.made["slow"] = Guard(name="slow", fail=stop)
    folder = RunFolder.load(out)
    with pytest.raises(BackendUnavailable):
        finish(rejudge(folder, ("slow",), registry, Quiet()))
    found = agreements(RunFolder.load(out))
    assert {(p.first, p.second) for p in found.pairs} == {("a", "b")}
    assert all("slow" not in each.votes for each in disagreements(folder, 100))


def test_judges_of_different_texts_are_never_compared(tmp_path: Path) -> None:
    names = ("a", "b", "c", "a(text=both)", "b(text=both)")
    folder = a_run(tmp_path / "run", *names, rollouts=1)
    found = agreements(folder)
    pairs = {(p.first, p.second) for p in found.pairs if p.label == "refusal"}
    assert pairs == {("a", "b"), ("a", "c"), ("b", "c"), ("a(text=both)", "b(text=both)")}
    assert {(g.name, g.judges) for g in found.groups} == {("all judges (text=answer)", names[:3])}
    divided = disagreements(folder, 1000)
    assert {tuple(each.votes) for each in divided} == {names[:3], names[3:]}


def test_a_sheet_by_disagreement_goes_by_judges_of_its_own_text(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run", "a", "a(text=both)", rollouts=1)
    # One judge of the text on the sheet disagrees with nobody.
    with pytest.raises(ConfigError, match="the judges disagree about no rollout"):
        design_labels(folder, kind="refusal", n=10, by="disagreement")
    with pytest.raises(ConfigError, match=r"'a\(text=both\)' was shown another text"):
        design_labels(folder, kind="refusal", n=10, by="disagreement", judges=("a", "a(text=both)"))


# -- what divides them


def split(votes: Iterable[bool | None]) -> float:
    given = [vote for vote in votes if vote is not None]
    return min(sum(given), len(given) - sum(given)) / len(given) if given else 0.0


def test_the_most_divided_rollouts_come_first_with_texts_and_votes(judged: RunFolder) -> None:
    every = disagreements(judged, 10_000)
    shares = [split(each.votes.values()) for each in every]
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) > 2
    # All that divide somebody, each once a label, and none that divides nobody.
    for label in LABELS:
        votes = votes_in(judged, label)
        rows = zip(*(votes[judge] for judge in "abcde"), strict=True)
        expected = sum(split(row) > 0 for row in rows)
        assert sum(each.label == label for each in every) == expected > 0
    assert any(None in each.votes.values() for each in every)
    for each in every:
        assert PANEL not in each.votes
        assert each.stored.rollout is not None
        assert each.stored.rollout.answer
        said = each.stored.verdicts
        for judge, vote in each.votes.items():
            ok = said[judge].reason == "ok"
            assert vote == (getattr(said[judge], each.label) if ok else None)


def test_as_many_are_found_as_were_asked_for_the_same_ones_each_time(judged: RunFolder) -> None:
    every = disagreements(judged, 10_000)
    places = [(e.label, e.stored.row.benchmark, e.stored.row.sample, e.stored.row.rollout)
              for e in every]  # fmt: skip
    assert len(set(places)) == len(places)
    for count in (0, 1, 7, len(every)):
        found = disagreements(judged, count)
        assert found == every[:count]


def test_judges_who_agree_on_everything_divide_nothing(tmp_path: Path) -> None:
    plugin = Guards(Plain("one"), Plain("other"))
    measure(tmp_path / "run", load_registry(extra=[plugin]), "one", "other", rollouts=1)
    folder = RunFolder.load(tmp_path / "run")
    assert disagreements(folder, 10) == []
    [kappa] = {p.kappa.estimate.value for p in agreements(folder).pairs if p.kappa}
    assert kappa == 1
