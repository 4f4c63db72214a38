"""``tseval show``, ``report`` and ``export`` on a run of probes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.support.measured import measurement
from tests.unit.test_before_after import flips, folder, probe
from tests.unit.test_report_html import Elements
from tseval import plugins
from tseval.cli.app import app


@pytest.fixture(autouse=True)
def _workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # What else is installed beside tseval is no business of these tests.
    monkeypatch.setattr(plugins, "_entry_points", list)
    folder(Path("base"), probe(0.9), flips(0.2))
    folder(Path("tuned"), probe(0.6), flips(0.5))


def tseval(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_show_prints_the_deliberation_scorecard_below_the_scores() -> None:
    result = tseval("show", "base")
    assert result.exit_code == 0, result.output
    assert result.stdout.index("first_token") < result.stdout.index("Do the thinking tokens")
    assert "Outcome readable before thinking, harmful · state A ·" in result.stdout
    assert "It can be read here; no control was made." in result.stdout
    assert (
        "not run: prefix_commitment, prefill_decision, valley, oscillation, latent_harm"
        in result.stdout
    )
    assert "Numbers" not in result.stdout


def test_show_prints_every_number_where_it_is_asked_to() -> None:
    result = tseval("show", "base", "--measurements", "--markdown")
    assert result.exit_code == 0, result.output
    assert "| Refusal AUROC · " in result.stdout
    assert "From without to with thinking" in result.stdout
    assert "read with care" in result.stdout


def test_what_the_model_was_under_stands_beside_its_scores() -> None:
    folder(Path("guarded"), probe(0.6), intervention="safepath", system_prompt="Be safe.")
    said = tseval("show", "guarded", "--markdown").stdout
    assert "- under the intervention safepath\n- under a system prompt of 8 characters" in said
    assert "under" not in tseval("show", "tuned", "--markdown").stdout.split("Do the thinking")[0]
    assert tseval("report", "guarded").exit_code == 0
    assert "under the intervention safepath" in Path("guarded/report.html").read_text()


def test_a_page_that_cannot_be_written_leaves_nothing_behind() -> None:
    Path("taken").mkdir()
    result = tseval("show", "base", "--html", "taken")
    assert result.exit_code == 1
    assert "error: cannot write taken: " in result.stderr
    assert not Path("taken.tmp").exists()


def test_a_run_that_lost_its_measurements_says_so() -> None:
    Path("base/measurements.json").unlink()
    result = tseval("show", "base", "--markdown")
    assert result.exit_code == 0, result.output
    assert "measurements.json is gone" in result.stdout
    assert "measurements.json is gone" not in tseval("show", "tuned", "--markdown").stdout
    assert tseval("report", "base").exit_code == 0
    assert "measurements.json is gone" in Path("base/report.html").read_text()


@pytest.mark.parametrize("command", [("show",), ("report",), ("export", "--format", "figures")])
def test_broken_measurements_are_named_with_the_way_to_new_ones(command: tuple[str, ...]) -> None:
    Path("base/measurements.json").write_text('{"broken')
    result = tseval(*command, "base")
    assert result.exit_code == 2
    assert "error: cannot read base/measurements.json: " in result.stderr
    assert "hint: remove it, and run the same `tseval run` command again" in result.stderr
    assert not Path("base/report.html").exists()


def test_json_has_the_page_beside_the_scorecards_own_fields() -> None:
    plain = json.loads(tseval("show", "base", "--json").stdout)
    assert {"scores", "protocols", "deliberation"} <= set(plain)
    (page,) = plain["deliberation"]
    keys = [finding["key"] for finding in page["findings"]]
    assert keys == ["first_token", "flips_better"]
    assert page["findings"][0]["estimate"]["value"] == 0.9
    whole = json.loads(tseval("show", "base", "--json", "--measurements").stdout)
    assert [each["probe"] for each in whole["measurements"]] == ["first_token", "think_flip"]


def test_a_run_without_probes_shows_what_it_did_before(tmp_path: Path) -> None:
    made = folder(tmp_path / "plain")
    result = tseval("show", "plain", "--json")
    assert set(json.loads(result.stdout)) == set(
        json.loads((made.path / "scores.json").read_text(encoding="utf-8"))
    )


def test_against_prints_the_differences_with_their_intervals() -> None:
    result = tseval("show", "tuned", "--against", "base")
    assert result.exit_code == 0, result.output
    assert "Before and after: base → tuned" in result.stdout
    assert "+30.0 pp" in result.stdout
    assert "-0.300" in result.stdout
    found = json.loads(tseval("show", "tuned", "--against", "base", "--json").stdout)
    (both,) = found["changes"]
    assert [change["key"] for change in both["changes"]] == ["first_token", "flips_better"]


def test_against_a_run_of_another_protocol_ends_with_4_and_names_the_field() -> None:
    folder(Path("longer"), probe(0.9), budget=512)
    result = tseval("show", "tuned", "--against", "longer")
    assert result.exit_code == 4
    assert "thinking.budget (first_token)" in result.stderr
    assert result.stdout == ""


def test_report_writes_a_page_with_the_deliberation_scorecard_on_top() -> None:
    result = tseval("report", "base")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == "base/report.html"
    text = Elements(Path("base/report.html").read_text(encoding="utf-8")).text
    # The last place of each: links at the page's head have the same names.
    places = [text.rindex(h) for h in ("Do the thinking", "Scorecard", "First token (first_token)")]
    assert places == sorted(places)
    assert "It can be read here; no control was made." in text


def test_html_with_against_has_the_comparison_and_its_slopes_first() -> None:
    result = tseval("show", "tuned", "--against", "base", "--html", "both.html")
    assert result.exit_code == 0, result.output
    assert "both.html" in result.stderr
    elements = Elements(Path("both.html").read_text(encoding="utf-8"))
    assert elements.text.rindex("Before and after: base") < elements.text.rindex("Scorecard")
    names = [each["name"] for each in elements.figures()]
    assert names[:2] == [
        "plot-0-slope-AUROC-refusal-rules",
        "plot-1-slope-share-refusal-rules",
    ]


def test_a_page_that_cannot_be_written_says_so_in_a_line(tmp_path: Path) -> None:
    result = tseval("report", "base", "--out", str(tmp_path / "nowhere" / "page.html"))
    assert result.exit_code == 1
    assert "cannot write" in result.stderr
    assert "Traceback" not in result.stderr


def test_export_writes_figures_and_prints_their_paths() -> None:
    pytest.importorskip("matplotlib")
    folder(Path("one"), measurement(numbers=()))
    result = tseval("export", "one", "--format", "figures", "--out", "figures")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [
        "figures/first_token-auroc-refusal-rules.png",
        "figures/first_token-auroc-refusal-rules.svg",
    ]


def test_a_run_leaves_its_page_and_names_it() -> None:
    result = tseval("run", "-m", "scripted", "-b", "quick_benign", "--out", "o", "--limit", "3")
    assert result.exit_code == 0, result.output
    assert "o/report.html shows it in a browser" in result.stderr
    page = Path("o/report.html").read_text(encoding="utf-8")
    assert len(page) < 100_000  # no curve, no library for it
    assert "quick_benign *" in Elements(page).text
    before = page
    assert tseval("judge", "o", "--judge", "refusal-strings").exit_code == 0
    after = Path("o/report.html").read_text(encoding="utf-8")
    assert after != before
    assert "refusal-strings" in Elements(after).text


def test_a_page_that_cannot_be_written_takes_nothing_from_a_run() -> None:
    command = ("run", "-m", "scripted", "-b", "quick_benign", "--out", "o", "--limit", "2")
    assert tseval(*command).exit_code == 0
    # Tests may run as root, whom no permission keeps out; a folder in the way does.
    Path("o/report.html").unlink()
    Path("o/report.html").mkdir()
    again = tseval(*command)
    assert again.exit_code == 0
    assert "warning: cannot write" in again.stderr
    assert "quick_benign" in again.stdout


def test_ls_says_what_a_probe_needs_and_whose_it_is() -> None:
    records = json.loads(tseval("ls", "benchmarks", "--json").stdout)
    by_name = {record["benchmark"]: record for record in records}
    probe_record = by_name["prefix_commitment"]
    assert (probe_record["kind"], probe_record["rows"]) == ("probe", "")
    assert probe_record["needs"] == "prefix, token_ids"
    assert probe_record["paper"] == "arXiv 2606.25013"
    assert by_name["harmbench"]["paper"].startswith("arXiv:")
    assert (by_name["harmbench"]["kind"], by_name["harmbench"]["needs"]) == ("harmful", "")


def test_ls_says_of_a_metric_which_end_is_better_or_that_neither_is() -> None:
    records = json.loads(tseval("ls", "metrics", "--json").stdout)
    better = {record["metric"]: record["better"] for record in records}
    assert better["orr"] == "lower"
    assert better["pass_at_1"] == "higher"
    assert better["settled"] == "neither"
