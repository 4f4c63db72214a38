"""The table: what it shows, what it leaves out, and that nothing a model wrote acts on a reader."""

import io
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tseval.report import values
from tseval.report.table import HEADINGS, headings, lines, markdown, notes, rich_table
from tseval.report.text import for_markdown, neutral, shortened
from tseval.requests import Subject
from tseval.runfolder import Scorecard
from tseval.types import Estimate, Score


def score(**more) -> Score:
    fields = {
        "benchmark": "harmbench",
        "metric": "asr_nonrefusal",
        "judge": "refusal-rules",
        "estimate": Estimate(value=0.25, low=0.1234, high=0.4999),
        "n": 8,
        "n_prompts": 8,
        "outcomes": {"full": 6, "none": 2},
        "bounds": (0.25, 0.25),
        "fingerprint": "0123456789ab",
    }
    return Score(**(fields | more))


def card(*scores: Score, **more) -> Scorecard:
    fields = {
        "subject": Subject(name="org/model", identity={"sha": "x"}),
        "preset": "default",
        "seed": 3,
        "scores": list(scores),
        "protocols": {},
    }
    return Scorecard(**(fields | more))


def printed(scorecard: Scorecard, *warnings: str) -> str:
    """What a terminal is sent, with the styles of one that takes them."""
    from rich.console import Console

    to = io.StringIO()
    console = Console(file=to, width=200, highlight=False, emoji=False, markup=False)
    console.print(rich_table(scorecard, warnings))
    return to.getvalue()


# -- what is shown


def test_a_row_shows_rate_interval_denominator_outcomes_judge_and_protocol() -> None:
    (line,) = lines(card(score()))
    assert line._asdict() == {
        "benchmark": "harmbench",
        "metric": "ASR (not refused) ↓",
        "rate": "25.0%",
        "interval": "[12.3, 50.0]",
        "n": "8",
        "outcomes": "full 6 none 2",
        "excluded": "0",
        "judge": "refusal-rules",
        "protocol": "0123456789ab",
    }
    text = printed(card(score()))
    assert "org/model" in text
    assert all(cell in text for cell in (*HEADINGS, *line))


def test_lost_rows_are_shown_by_reason_with_the_bounds_they_leave() -> None:
    lost = score(excluded={"error": 1, "unparsed": 3}, bounds=(2 / 12, 6 / 12))
    (line,) = lines(card(lost))
    assert line.excluded == "error 1 unparsed 3 → 16.7-50.0%"


def test_an_undefined_rate_is_a_dash_and_a_reason_never_a_zero() -> None:
    nothing = score(
        estimate=None,
        undefined="no row has a verdict",
        n=0,
        n_prompts=0,
        outcomes={},
        excluded={"error": 4},
        bounds=(0.0, 1.0),
    )
    (line,) = lines(card(nothing))
    assert (line.rate, line.interval, line.n) == ("-", "no row has a verdict", "0")
    assert line.excluded == "error 4 → 0.0-100.0%"


def test_rollouts_are_counted_with_their_prompts() -> None:
    (line,) = lines(card(score(n=32, n_prompts=8)))
    assert line.n == "32 (8 p.)"


def test_a_partial_row_is_marked_and_explained() -> None:
    whole, part = lines(card(score(), score(benchmark="xstest", group="harmful", partial=True)))
    assert (whole.benchmark, part.benchmark) == ("harmbench", "xstest · harmful *")
    assert "* partial: --limit took a subset of the rows" in notes(card(score(partial=True)))
    assert not any("partial" in note for note in notes(card(score())))


@pytest.mark.parametrize(
    ("outcomes", "shown"),
    [
        ({"full": 6, "none": 2}, False),
        ({"full": 6, "none": 1, "empty": 1}, True),
        ({"full": 6, "none": 1, "degenerate": 1}, True),
        ({}, False),
    ],
)
def test_the_substantive_reading_is_shown_only_where_it_differs(
    outcomes: dict[str, int], shown: bool
) -> None:
    both = card(
        score(outcomes=outcomes), score(metric="asr_nonrefusal_substantive", outcomes=outcomes)
    )
    assert len(lines(both)) == 1 + shown
    assert "ASR (not refused) ↓" in {line.metric for line in lines(both)}
    # Another metric is never taken for it.
    assert len(lines(card(score(metric="asr_harmful", outcomes=outcomes)))) == 1


def test_a_metric_of_a_third_party_shows_its_name_and_its_direction() -> None:
    up, down = lines(card(score(metric="kindness", higher_is_better=True), score(metric="spite")))
    assert (up.metric, down.metric) == ("kindness ↑", "spite ↓")


def test_notes_say_what_a_reader_of_the_numbers_has_to_know() -> None:
    unverified = Subject(name="x", identity={}, verified=False)
    found = notes(
        card(
            score(forced_close_share=0.125),
            score(forced_close_share=0.5),
            score(forced_close_share=None),
            score(benchmark="safety", group="average"),
            subject=unverified,
            failed={"hexphi": "no data\nhint: HF_TOKEN"},
            skipped={"probe": "lacks hidden_states"},
        ),
        ["something odd"],
    )
    assert found == [
        "protocol default, seed 3; rates are shares of n rollouts",
        "tseval closed up to 50.0% of the thinking traces of a benchmark",
        "averages weigh benchmarks equally; their intervals take them as independent",
        "the model's identity rests on the server's word (unverified)",
        "hexphi failed: no data hint: HF_TOKEN",
        "probe skipped: lacks hidden_states",
        "something odd",
    ]
    assert notes(card(score(forced_close_share=0.0)))[1:] == []


# -- hostile text

ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b31m"
BIDI = "\u202eabc\u2066\u200b\ufeff"
HOSTILE = f"evil{ESCAPES}{BIDI}\r\n\x00|<img src=x onerror=1>[a](javascript:1)`x`**b**&lt;\\"


def acts(text: str) -> set[str]:
    """Characters that a terminal would act on or hide."""
    return {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co")}


def test_hostile_names_and_texts_reach_a_terminal_as_plain_characters() -> None:
    hostile = card(
        score(
            benchmark=HOSTILE,
            group=HOSTILE,
            metric=HOSTILE,
            judge=HOSTILE,
            fingerprint=HOSTILE,
            undefined=HOSTILE,
            estimate=None,
            outcomes={HOSTILE: 1},
            excluded={HOSTILE: 1},
        ),
        subject=Subject(name=HOSTILE, identity={}),
        preset=HOSTILE,
        failed={HOSTILE: HOSTILE},
        skipped={HOSTILE: HOSTILE},
    )
    text = printed(hostile, HOSTILE)
    assert acts(text) == set()
    # Markup of rich's own is text as well.
    assert "[bold]x" in printed(card(score(), subject=Subject(name="[bold]x", identity={})))
    assert "evil␛[2J␛]0;title" in printed(card(score(), subject=Subject(name=HOSTILE, identity={})))


def test_hostile_names_and_texts_are_no_markdown_and_no_html() -> None:
    hostile = card(
        score(benchmark=HOSTILE, judge=HOSTILE, outcomes={HOSTILE: 1}),
        score(),
        subject=Subject(name=HOSTILE, identity={}),
        failed={HOSTILE: HOSTILE},
    )
    text = markdown(hostile, [HOSTILE])
    assert acts(text) == set()
    for mark in ("<img", "](java", "`", "**b", "&lt;"):
        assert not re.search(rf"(?<!\\){re.escape(mark)}", text), mark
    rows = [line for line in text.splitlines() if line.startswith("|")]
    borders = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert (len(rows), borders) == (4, {len(HEADINGS) + 1})
    # One line each: no text starts a line of its own.
    assert sum(line.startswith("- ") for line in text.splitlines()) == 3
    assert text.startswith("**evil")


def test_what_we_write_ourselves_stays_readable_in_markdown() -> None:
    text = markdown(card(score(benchmark="quick_harmful", partial=True)))
    assert "| quick_harmful \\* |" in text
    assert "| [12.3, 50.0] |" in text
    assert "- \\* partial: --limit took a subset of the rows" in text


def test_a_long_name_keeps_the_end_that_tells_it_apart() -> None:
    names = ["SmolLM2-135M-Instruct (demo)", "SmolLM2-135M-Instruct (demo), ThinkSafe adapter"]
    cut = [shortened(name, 26) for name in names]
    assert cut[0] != cut[1]
    assert cut[1].endswith("…ThinkSafe adapter")
    assert all(len(each) <= 26 for each in cut)
    assert shortened("short", 26) == "short"


@given(st.text())
def test_neutral_text_never_acts_and_never_breaks_a_line(text: str) -> None:
    shown = neutral(text)
    assert acts(shown) == set()
    assert len(shown) == len(text)
    assert len(shown.splitlines()) <= 1
    assert neutral(shown) == shown
    assert for_markdown(text).replace("\\", "") == shown.replace("\\", "")


@given(st.text(), st.integers(1, 20))
def test_a_limit_cuts_and_shows_that_it_did(text: str, limit: int) -> None:
    shown = neutral(text, limit)
    assert len(shown) <= limit
    assert shown.endswith("…") or len(text) <= limit


def test_every_kind_of_line_end_becomes_a_blank() -> None:
    ends = "\t\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
    assert neutral(ends) == " " * len(ends)


def test_ordinary_text_of_any_script_is_left_alone() -> None:
    for text in ("naïve café", "ответ", "回答、日本語", "الجواب", "emoji 🙂", "a\u0301"):
        assert neutral(text) == text


# -- scores of probes


def probed(**more) -> Score:
    fields = {
        "benchmark": "first_token",
        "group": "harmful · state A",
        "metric": "refusal_auroc",
        "title": "AUROC",
        "unit": "number",
        "higher_is_better": None,
        "estimate": Estimate(value=0.8734, low=0.7, high=0.95),
        "bounds": None,
        "outcomes": {"refusals": 20, "compliances": 40},
        "excluded": {"unclosed": 3},
    }
    return score(**(fields | more))


def test_a_number_of_a_probe_is_no_percentage_and_says_that_neither_end_is_better() -> None:
    (line,) = lines(card(probed()))
    assert (line.benchmark, line.metric) == ("first_token · harmful · state A", "AUROC ·")
    assert (line.rate, line.interval) == ("0.873", "[0.700, 0.950]")
    # Nothing bounds an area under a curve by what it would be if lost traces went one way.
    assert (line.outcomes, line.excluded) == ("refusals 20 compliances 40", "unclosed 3")


def test_a_share_of_a_probe_is_a_percentage_and_an_undefined_one_says_why() -> None:
    share, nothing = lines(
        card(
            probed(unit="share", title="Settled at 25%", higher_is_better=True),
            probed(estimate=None, undefined="undefined: 4 refusals"),
        )
    )
    assert (share.metric, share.rate, share.interval) == (
        *("Settled at 25% ↑", "87.3%"),
        "[70.0, 95.0]",
    )
    assert (nothing.rate, nothing.interval) == ("-", "undefined: 4 refusals")


def test_a_table_with_scores_of_probes_speaks_of_values_and_one_without_of_rates() -> None:
    assert headings(card(score())) == HEADINGS
    both = card(score(), probed())
    assert headings(both).rate == "value"
    assert "| value |" in re.sub(" +", " ", markdown(both))
    (note,) = [each for each in notes(both) if "of probes" in each]
    assert "n counts traces, rollouts or cuts" in note
    assert not any("of probes" in each for each in notes(card(score())))


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (0.0, "number", "0.000"),
        (0.8734, "number", "0.873"),
        (-12.345, "number", "-12.35"),
        (1234.5, "number", "1234.5"),
        (0.00012, "number", "1.2e-04"),
        (0.00012, "share", "0.0%"),
        (None, "number", "-"),
    ],
)
def test_values_keep_the_digits_that_say_something(number, unit, text: str) -> None:
    assert values.value(number, unit) == text


def test_differences_have_a_sign_and_their_unit() -> None:
    found = Estimate(value=-0.25, low=-0.4, high=0.1)
    assert values.difference(found, "share") == "-25.0 pp"
    assert values.difference(found, "number") == "-0.250"
    assert values.difference(Estimate(value=0.5, low=0, high=1), "number") == "+0.500"
    assert values.difference(None) == "-"
