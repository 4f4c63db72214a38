"""Comparisons: pairs by prompt, refusals to compare, Holm over all of it, second readings."""

import msgspec
import pytest

from tests.support.sides import side
from tseval.compare import Side, compare, match
from tseval.errors import ConfigError, NotComparable
from tseval.outcomes import Outcomes, RowOutcome
from tseval.stats_compare import holm, mcnemar_exact, tango_interval
from tseval.types import Thinking

ASR, SECOND, ORR = "asr_nonrefusal", "asr_nonrefusal_substantive", "orr"


def test_rows_are_paired_by_prompt_and_the_difference_is_after_less_before() -> None:
    before = side("a", {("b", ORR): [0] * 30 + [1] * 10})
    after = side("b", {("b", ORR): [0] * 26 + [1] * 4 + [1] * 9 + [0]})
    (row,) = compare(before, [after])[0].rows
    wanted = tango_interval(4, 1, 40)
    assert row.difference is not None
    assert (row.difference.value, row.difference.low) == pytest.approx((3 / 40, wanted.low))
    assert row.pvalue == mcnemar_exact(4, 1)
    assert row.paired is not None
    assert row.paired.prompts == 40
    assert row.reading == "no difference shown"


def test_rollouts_of_a_prompt_are_averaged_and_prompts_counted() -> None:
    before = side("a", {("b", ORR): [0, 0, 0, 0] * 20}, rollouts=4)
    after = side("b", {("b", ORR): [1, 1, 0, 0] * 10 + [0, 0, 0, 0] * 10}, rollouts=4)
    (row,) = compare(before, [after])[0].rows
    assert row.paired is not None
    assert row.paired.prompts == 20
    assert row.difference is not None
    assert row.difference.value == pytest.approx(0.25)
    assert row.pvalue == pytest.approx(2 / 2**10)
    assert row.reading == "worse"


def test_an_excluded_row_leaves_its_pair_and_is_counted() -> None:
    before = side("a", {("b", ORR): [0] * 10 + [None]})
    after = side("b", {("b", ORR): [0] * 9 + [None, 1]})
    (row,) = compare(before, [after])[0].rows
    assert row.paired is not None
    assert (row.paired.prompts, row.alone) == (9, 2)


@pytest.mark.parametrize(("field", "other"), [("higher_is_better", True), ("unit", "number")])
def test_runs_that_disagree_on_what_is_better_are_refused_whatever_is_allowed(
    field: str, other: object
) -> None:
    before, after = (side(name, {("b", ORR): [0] * 40}) for name in "ab")
    turned = [msgspec.structs.replace(each, **{field: other}) for each in after.scorecard.scores]
    card = msgspec.structs.replace(after.scorecard, scores=turned)
    with pytest.raises(NotComparable, match=f"do not agree on {field} of b orr"):
        compare(before, [after._replace(scorecard=card)], allow=[field])


def test_another_protocol_is_refused_by_field_and_allowed_by_name() -> None:
    before = side("a", {("b", ORR): [0] * 20})
    after = side("b", {("b", ORR): [0] * 20}, thinking=Thinking(budget=7))
    with pytest.raises(NotComparable, match=r"thinking\.budget \(b\)") as caught:
        compare(before, [after])
    assert caught.value.exit_code == 4
    assert "--allow thinking.budget" in str(caught.value)
    for allowed in ("thinking", "thinking.budget"):
        (row,) = compare(before, [after], allow=[allowed])[0].rows
        assert row.allowed == ("thinking.budget",)
    with pytest.raises(NotComparable):
        compare(before, [after], allow=["think"])


def test_holm_is_over_all_numbers_and_runs_and_second_readings_are_not_counted() -> None:
    def of(shift: int) -> dict[tuple[str, str], list[float | None]]:
        hits: list[float | None] = [1.0] * shift + [0.0] * (40 - shift)
        return {("h", ASR): hits, ("h", SECOND): hits, ("o", ORR): hits}

    before = side("a", of(0))
    found = compare(before, [side("b", of(6)), side("c", of(9))])
    rows = [row for each in found for row in each.rows]
    counted = [row for row in rows if row.counted]
    assert {row.metric for row in rows if not row.counted} == {SECOND}
    assert [each.family for each in found] == [4, 4]
    assert [row.adjusted for row in counted] == holm([row.pvalue for row in counted]).tolist()
    assert all(row.adjusted is None for row in rows if not row.counted)


def test_parts_of_a_benchmark_are_not_counted_twice() -> None:
    before, after = side("a", {("b", ORR): [0] * 12}), side("b", {("b", ORR): [1] * 12})

    def with_part(one: Side) -> Side:
        (whole,) = one.scorecard.scores
        part = msgspec.structs.replace(whole, group="part")
        card = msgspec.structs.replace(one.scorecard, scores=[whole, part])
        return one._replace(scorecard=card)

    whole, part = compare(with_part(before), [with_part(after)])[0].rows
    assert whole.counted
    assert not part.counted


def test_without_rows_the_runs_are_independent_and_no_p_value_is_made_up() -> None:
    before, after = side("a", {("b", ORR): [0] * 20}), side("b", {("b", ORR): [1] * 20})
    bare = after._replace(outcomes=Outcomes())
    (row,) = compare(before, [bare])[0].rows
    assert row.paired is None
    assert row.pvalue is None
    assert row.adjusted is None
    assert row.difference is not None
    assert "independent" in row.difference.method
    assert row.reading == ""


def test_runs_of_other_benchmarks_have_nothing_to_compare() -> None:
    before, after = side("a", {("b", ORR): [0] * 9}), side("b", {("c", ORR): [0] * 9})
    with pytest.raises(ConfigError, match="no number in common"):
        compare(before, [after])
    more = side("b", {("c", ORR): [0] * 9, ("b", ORR): [0] * 9})
    found = compare(before, [more])[0]
    assert found.only_after == (("c", "", "orr", "rules"),)


def test_a_number_that_is_undefined_says_on_which_side() -> None:
    before, after = side("a", {("b", ORR): [None] * 9}), side("b", {("b", ORR): [0] * 9})
    (row,) = compare(before, [after])[0].rows
    assert row.difference is None
    assert row.undefined == "before: no row has a verdict"
    assert row.paired is None


def test_what_is_excluded_can_be_filled_for_the_worst_case() -> None:
    rows = [RowOutcome("a", 0, "c", "error", None), RowOutcome("b", 0, "d", "full", 1.0)]
    plain = match(rows, rows)
    assert plain is not None
    assert plain.samples == ["b"]
    filled = match(rows, rows, fill=(0.0, 1.0))
    assert filled is not None
    assert (filled.before, filled.after) == ([0.0, 1.0], [1.0, 1.0])
    assert match(None, rows) is None
