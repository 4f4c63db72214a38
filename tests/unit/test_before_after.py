"""Before and after: differences with intervals, paired where possible, of like with like only."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.measured import estimate, measurement, number
from tests.support.panel_judges import Plain, Quiet, registry_with
from tests.support.sessions import finish
from tests.unit.test_report import card, score
from tseval.before_after import Changes, changes_between
from tseval.errors import ConfigError, NotComparable
from tseval.measurements import Measurement, MeasureSpec, Number
from tseval.outcomes import row_hash
from tseval.prompt_pairs import by_prompt
from tseval.protocol import fingerprint
from tseval.report.deliberation import changes_page, changes_part, slopes
from tseval.report.judges import markdown_page
from tseval.requests import ModelSpec, Subject
from tseval.runfolder import Manifest, RunFolder
from tseval.runner import run
from tseval.scripts import Call
from tseval.spec import RunSpec
from tseval.stats_compare import independent, tango_interval
from tseval.testing import ScriptedBackend
from tseval.types import Estimate

MEASURES = (MeasureSpec(name="refusal_auroc", title="Refusal AUROC"),)


def folder(path: Path, *found: Measurement, budget: int = 96, **more: Any) -> RunFolder:
    """A run's folder with these measurements, and a score under a protocol for each."""
    path.mkdir(parents=True)
    scores, protocols = list(more.pop("scores", ())), {}
    for each in found:
        fields = {
            "schema": 1,
            "benchmark": each.probe,
            "thinking": {"budget": budget},
            "settings": {"scale": str(each.settings.get("scale"))},
            "judge": {"name": each.judge},
        }
        protocols[fingerprint(fields)] = fields
        scores += [
            score(
                benchmark=each.probe,
                group=n.group,
                metric=n.metric,
                judge=each.judge,
                fingerprint=fingerprint(fields),
            )
            for n in each.numbers
            if n.headline
        ]
    spec = RunSpec(
        model=ModelSpec(backend="scripted"),
        benchmarks=tuple(each.probe for each in found),
        intervention=more.pop("intervention", ""),
        system_prompt=more.pop("system_prompt", ""),
    )
    made = RunFolder(path, Manifest(spec=spec, spec_hash=spec.hash, status="complete"))
    made.save()
    made.save_measurements(found)
    name = more.pop("name", path.name)
    made.save_scores(
        card(*scores, protocols=protocols, subject=Subject(name=name, identity={}), **more)
    )
    return made


def probe(value: float, *, low: float = 0.1, high: float = 0.1, **more: Any) -> Measurement:
    numbers = (
        number(group="harmful · state A", estimate=estimate(value, value - low, value + high)),
    )
    return measurement(numbers=more.pop("numbers", numbers), measures=MEASURES, **more)


def between(before: RunFolder, after: RunFolder) -> Changes:
    (only,) = changes_between(before, after)
    return only


# -- the difference


def test_the_difference_of_two_values_takes_its_limits_from_theirs() -> None:
    found = independent(
        Estimate(value=0.5, low=0.4, high=0.8), Estimate(value=0.7, low=0.5, high=0.8)
    )
    assert found.value == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2 - (0.2**2 + 0.3**2) ** 0.5)
    assert found.high == pytest.approx(0.2 + (0.1**2 + 0.1**2) ** 0.5)
    assert found.method == "independent (mover)"


def test_equal_runs_differ_by_nothing_and_turning_them_round_turns_the_sign() -> None:
    a, b = Estimate(value=0.5, low=0.4, high=0.8), Estimate(value=0.7, low=0.5, high=0.8)
    there, back = independent(a, b), independent(b, a)
    assert (there.value, there.low, there.high) == (-back.value, -back.high, -back.low)
    same = independent(a, a)
    assert same.value == 0
    assert same.low == -same.high < 0


def test_a_change_holds_both_values_their_difference_and_what_it_rests_on(tmp_path: Path) -> None:
    found = between(folder(tmp_path / "base", probe(0.9)), folder(tmp_path / "tuned", probe(0.6)))
    (change,) = found.changes
    assert (found.before, found.after, found.judge) == ("base", "tuned", "refusal-rules")
    assert change.title == "Outcome readable before thinking, harmful · state A"
    assert change.difference is not None
    assert change.difference.value == pytest.approx(-0.3)
    assert change.difference.high < 0
    assert change.reading == "It fell."
    assert any("independent samples" in note for note in found.notes)


def test_an_undefined_side_gives_no_difference_and_says_which(tmp_path: Path) -> None:
    nothing = number(
        group="harmful · state A", estimate=None, undefined="undefined: 4 refusals", null=None
    )
    found = between(
        folder(tmp_path / "a", probe(0.9)), folder(tmp_path / "b", probe(0, numbers=(nothing,)))
    )
    (change,) = found.changes
    assert (change.difference, change.after) == (None, None)
    assert change.undefined == "after: undefined: 4 refusals"
    assert changes_page(found).sections[0].rows[0][-1] == change.undefined
    assert slopes(found) == []


def test_a_row_of_one_run_only_is_named_and_not_compared(tmp_path: Path) -> None:
    more = (
        number(group="harmful · state A", estimate=estimate(0.9, 0.8, 1.0)),
        number(group="benign · state A", estimate=estimate(0.9, 0.8, 1.0)),
    )
    found = between(
        folder(tmp_path / "a", probe(0, numbers=more)), folder(tmp_path / "b", probe(0.8))
    )
    assert len(found.changes) == 1
    assert "benign · state A" in found.notes[0]


def test_rows_of_one_run_only_are_told_apart_though_their_titles_hold_commas(
    tmp_path: Path,
) -> None:
    found = between(
        folder(tmp_path / "a", probe(0.9), flips(0.2)),
        folder(tmp_path / "b", probe(0, numbers=(number(group="benign · state A"),))),
    )
    (title, *_) = found.notes[0].removeprefix("in one of the runs only: ").split("; ")
    assert title == "Outcome readable before thinking, harmful · state A"


def test_defences_that_leave_the_models_name_alone_are_named(tmp_path: Path) -> None:
    plain = folder(tmp_path / "a", probe(0.9), name="demo")
    guarded = folder(tmp_path / "b", probe(0.8), name="demo", intervention="safepath")
    prompted = folder(tmp_path / "c", probe(0.8), name="demo", system_prompt_hash="0123456789ab")
    found = between(plain, guarded)
    assert (found.before, found.after) == ("demo", "demo under safepath")
    assert "same model" not in " ".join(found.notes)
    assert between(plain, prompted).after == "demo under system prompt 012345"
    assert "both runs name the same model" in between(plain, plain).notes


def test_rows_that_keep_their_prompts_are_paired_and_the_others_are_not(tmp_path: Path) -> None:
    rows = [row_hash("", str(place)) for place in range(40)]

    def made(hits: list[int]) -> Measurement:
        share = sum(hits) / 40
        kept = by_prompt(rows, range(40), hits, [1] * 40)
        mine = {"metric": "flips_better", "estimate": estimate(share, share - 0.15, share + 0.15)}
        numbers = number(group="harmful", by_prompt=kept, **mine), number(group="benign", **mine)
        return msgspec.structs.replace(flips(0), numbers=numbers)

    found = between(
        folder(tmp_path / "a", made([1] * 20 + [0] * 20)),
        folder(tmp_path / "b", made([1] * 24 + [0] * 16)),
    )
    harmful, benign = (change.difference for change in found.changes)
    assert harmful is not None
    assert benign is not None
    by_hand = tango_interval(4, 0, 40)
    assert (harmful.low, harmful.high) == pytest.approx((by_hand.low, by_hand.high))
    assert harmful.value == pytest.approx(benign.value) == pytest.approx(0.1)
    assert harmful.method == "paired by prompt, n=40 (tango)"
    assert benign.method == "independent (mover)"
    # What both show alike is told by pairs alone.
    assert harmful.low > 0 > benign.low
    assert any("'independent'" in note for note in found.notes)


# -- comparable or not


def test_runs_of_other_protocols_are_not_compared_and_the_fields_are_named(tmp_path: Path) -> None:
    before = folder(tmp_path / "a", probe(0.9), budget=96)
    after = folder(tmp_path / "b", probe(0.8), budget=512)
    with pytest.raises(NotComparable, match=r"thinking\.budget \(first_token\)") as caught:
        changes_between(before, after)
    assert caught.value.exit_code == 4


def test_other_constants_of_a_probe_are_found_without_a_score(tmp_path: Path) -> None:
    quiet = (number(group="harmful · state A", headline=False),)
    before = folder(tmp_path / "a", probe(0, numbers=quiet, settings={"scale": "smoke"}))
    after = folder(tmp_path / "b", probe(0, numbers=quiet, settings={"scale": "standard"}))
    with pytest.raises(NotComparable, match=r"settings\.scale \(first_token\)"):
        changes_between(before, after)


def test_runs_without_a_common_judge_are_told_how_to_get_one(tmp_path: Path) -> None:
    before = folder(tmp_path / "a", probe(0.9, judge="wildguard"))
    after = folder(tmp_path / "b", probe(0.8))
    with pytest.raises(NotComparable, match="wildguard there, refusal-rules here") as caught:
        changes_between(before, after)
    assert "tseval judge" in caught.value.hint
    assert "--judge refusal-rules" in caught.value.hint


def test_each_common_judge_has_a_comparison(tmp_path: Path) -> None:
    both = [probe(0.9), probe(0.8, judge="wildguard")]
    found = changes_between(folder(tmp_path / "a", *both), folder(tmp_path / "b", *both))
    assert [each.judge for each in found] == ["refusal-rules", "wildguard"]


def test_a_run_without_probes_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no probe of the deliberation scorecard"):
        changes_between(folder(tmp_path / "a"), folder(tmp_path / "b", probe(0.9)))


# -- paired


def refuses(share: float) -> Any:
    """A script that refuses a share of the prompts, the same ones at every share below."""

    def script(call: Call) -> str:
        place = int.from_bytes(call.messages[-1].content.encode()[-4:], "big") % 97
        return "sorry, no" if place < 97 * share else "of course"

    return script


def made(path: Path, share: float) -> RunFolder:
    registry, _ = registry_with(Plain("plain"))
    spec = RunSpec(
        model=ModelSpec(backend="scripted", name=f"m{share}"),
        benchmarks=("quick_benign",),
        judges=("plain",),
    )
    backend = ScriptedBackend(refuses(share), name=f"m{share}")
    outcome = finish(run(spec, registry, Quiet(), out=path, backend=backend), 60)
    # A probe beside it: without one there is no page.
    outcome.folder.save_measurements([])
    found = probe(0.9, probe="first_token", judge="plain")
    text = msgspec.json.encode([found])
    (path / "measurements.json").write_bytes(text)
    return outcome.folder


def test_rates_over_the_same_prompts_are_paired(tmp_path: Path) -> None:
    before, after = made(tmp_path / "a", 0.6), made(tmp_path / "b", 0.2)
    (found,) = changes_between(before, after)
    (rate,) = [change for change in found.changes if change.key == "orr"]
    assert rate.before is not None
    assert rate.after is not None
    assert rate.difference is not None
    gone = round(24 * (rate.before.value - rate.after.value))
    assert gone > 3
    # Who is refused after was refused before: nothing speaks the other way.
    expected = tango_interval(0, gone, 24)
    assert (rate.difference.low, rate.difference.high) == (expected.low, expected.high)
    assert rate.difference.method == "paired by prompt, n=24 (tango)"
    assert rate.reading == "Better."
    loose = independent(rate.before, rate.after)
    assert rate.difference.high - rate.difference.low < loose.high - loose.low


def test_without_the_outcomes_of_rows_the_runs_are_taken_as_independent(tmp_path: Path) -> None:
    before, after = made(tmp_path / "a", 0.6), made(tmp_path / "b", 0.2)
    (before.path / "outcomes.json").unlink()
    (found,) = changes_between(before, after)
    (rate,) = [change for change in found.changes if change.key == "orr"]
    assert rate.difference is not None
    assert rate.difference.method == "independent (mover)"


# -- as a page


def flips(value: float) -> Measurement:
    better: Number = number(
        metric="flips_better", group="harmful", estimate=estimate(value, value - 0.1, value + 0.1)
    )
    share = MeasureSpec(name="flips_better", title="b", unit="share", higher_is_better=True)
    return measurement(probe="think_flip", numbers=(better,), measures=(share,))


def test_the_page_has_signs_units_and_a_slope_for_each_axis(tmp_path: Path) -> None:
    found = between(
        folder(tmp_path / "a", probe(0.9), flips(0.2)),
        folder(tmp_path / "b", probe(0.6), flips(0.5)),
    )
    text = markdown_page(changes_page(found))
    n = [change.n_after for change in found.changes]
    assert min(n) > 0
    assert all(f"| {each} → {each} |" in " ".join(text.split()) for each in n)
    assert "| -0.300 " in text
    assert "+30.0 pp" in text
    assert "Better." in text
    auroc, share = slopes(found)
    assert (auroc.y_title, share.y_title) == ("AUROC", "share")
    assert auroc.ticks == ("before: a", "after: b")
    assert auroc.series[0].y == (0.9, 0.6)
    assert changes_part(found).plots == [auroc, share]
