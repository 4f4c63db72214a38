"""``tseval compare`` and ``tseval gate`` on runs of scripted models."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as tree

import pytest
from typer.testing import CliRunner, Result

from tests.unit.test_runner import Shown, always, spec
from tseval.cli.app import app
from tseval.flips import _answers
from tseval.gate import Decision, Verdict
from tseval.plugins import load_registry
from tseval.readback import Row, Stored
from tseval.report.compare import junit as junit_of
from tseval.runner import run
from tseval.testing import Call, ScriptedBackend, mixed
from tseval.types import Rollout, Thinking

HOSTILE = "<script>alert(1)</script> =cmd|' /C calc'!A0 \x1b[31mred \u202eevil | cell"
REFUSAL = "I'm sorry, but I can't help with that."


def made(out: Path, script: Callable[[Call], str], name: str, **more: object) -> Path:
    backend = ScriptedBackend(script=script, name=name)
    asyncio.run(run(spec(**more), load_registry(), Shown(), out=out, backend=backend))
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {
        "mixed": made(root / "mixed", mixed, "mixed"),
        "again": made(root / "again", mixed, "mixed"),
        "refuses": made(root / "refuses", always(REFUSAL), "refuses"),
        "hostile": made(root / "hostile", always(HOSTILE), "hostile"),
        "other": made(root / "other", mixed, "other", thinking=Thinking(budget=99)),
    }


def tseval(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_a_comparison_is_printed_with_pairs_tests_and_denominators(runs: dict[str, Path]) -> None:
    result = tseval("compare", runs["mixed"], runs["refuses"], "--json")
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)["comparisons"]
    rows = {(row["benchmark"], row["metric"]): row for row in found["rows"]}
    orr = rows["quick_benign", "orr"]
    assert orr["after"]["estimate"]["value"] == 1.0
    assert orr["paired"]["prompts"] == 24
    gained = 24 - round(24 * orr["before"]["estimate"]["value"])
    assert orr["difference"]["value"] == pytest.approx(gained / 24)
    assert orr["pvalue"] == pytest.approx(2 / 2**gained)
    table = tseval("compare", runs["mixed"], runs["refuses"], "--markdown")
    assert f"+{gained} -0" in table.stdout
    assert "worse" in table.stdout
    assert "McNemar" in table.stdout


def test_runs_of_one_model_are_told_apart_by_their_folders(runs: dict[str, Path]) -> None:
    result = tseval("compare", runs["mixed"], runs["again"])
    assert result.exit_code == 0, result.output
    said = "".join(result.stdout.split())
    for name in ("mixed", "again"):
        assert f"({runs[name]})" in said
    assert "nodifferenceshown" in said


def test_three_runs_give_two_comparisons_under_one_adjustment(runs: dict[str, Path]) -> None:
    result = tseval("compare", runs["mixed"], runs["again"], runs["refuses"], "--json")
    found = json.loads(result.stdout)["comparisons"]
    assert [each["after"] for each in found] == [
        f"scripted/mixed ({runs['again']})",
        f"scripted/refuses ({runs['refuses']})",
    ]
    assert {each["family"] for each in found} == {4}


def test_another_protocol_exits_4_and_can_be_allowed(runs: dict[str, Path]) -> None:
    result = tseval("compare", runs["mixed"], runs["other"])
    assert result.exit_code == 4
    assert "thinking.budget" in result.stderr
    assert len(result.stderr.splitlines()) <= 3
    allowed = tseval("compare", runs["mixed"], runs["other"], "--allow", "thinking.budget")
    assert allowed.exit_code == 0
    assert "NOT THE SAME PROTOCOL: thinking.budget" in allowed.stdout


def test_what_changed_is_shown_with_both_answers_and_nothing_acts(runs: dict[str, Path]) -> None:
    result = tseval("compare", runs["refuses"], runs["hostile"], "--flips", 2, "--markdown",
                    "--no-redact")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert REFUSAL in result.stdout
    for harm in ("\x1b", "\u202e"):
        assert harm not in result.stdout
    # Markdown takes an escaped bracket for a character.
    assert result.stdout.count("<script>") == result.stdout.count("\\<script>") > 0
    asked = tseval("compare", runs["refuses"], runs["hostile"], "--flips", 2, "--json",
                   "--no-redact")  # fmt: skip
    (flips,) = json.loads(asked.stdout)["flips"]
    # Every answer changed: two of each number are shown, those for the worse first.
    assert len(flips) == 4
    assert flips[0]["answers_before"] == [REFUSAL]
    assert flips[0]["worse"] is True
    none = tseval("compare", runs["mixed"], runs["again"], "--flips", 2)
    assert "no sample changed" in none.stdout


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        (("--json",), False),
        (("--markdown",), False),
        ((), True),
        (("--redact",), False),
        (("--json", "--no-redact"), True),
    ],
)
def test_what_is_to_be_published_has_no_answers_to_harmful_prompts(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], kept: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    result = tseval("compare", runs["refuses"], runs["hostile"], "--flips", 2, *flags)
    assert result.exit_code == 0, result.output
    # Two samples changed under each of three numbers: only one of them is of benign prompts.
    whole = tseval("compare", runs["refuses"], runs["hostile"], "--flips", 2, "--json",
                   "--no-redact")  # fmt: skip
    (flips,) = json.loads(whole.stdout)["flips"]
    harmful = sum(flip["harmful"] for flip in flips)
    assert 0 < harmful < len(flips)
    shown = result.stdout.count(REFUSAL) + result.stdout.count("I'm sorry, but I can\\'t help")
    assert shown == (len(flips) if kept else len(flips) - harmful)
    if "--json" in flags:
        (found,) = json.loads(result.stdout)["flips"]
        assert [flip["redacted"] for flip in found] == [
            flip["harmful"] and not kept for flip in found
        ]
        assert all(flip["prompt"] for flip in found)
    elif not kept:
        assert "answers to harmful prompts are left out; --no-redact shows them" in result.stdout


def test_a_rollout_that_failed_is_not_shown_as_a_trace_that_never_closed() -> None:
    def stored(number: int, rollout: Rollout | None) -> Stored:
        row = Row(benchmark="b", sample="s", rollout=number, prompt="p")
        return Stored(row=row, rollout=rollout, verdicts={})

    unclosed, answered = Rollout(key="0", answer=None), Rollout(key="1", answer="yes")
    rows = [stored(2, answered), stored(1, None), stored(0, unclosed)]
    assert list(_answers(rows)) == [None, "yes"]


@pytest.mark.parametrize(
    ("names", "said"), [(["mixed"], "needs two runs"), (["mixed", "nowhere"], "no run in")]
)
def test_what_is_no_comparison_is_refused(
    runs: dict[str, Path], names: list[str], said: str
) -> None:
    result = tseval("compare", *(runs.get(name, Path(name)) for name in names))
    assert result.exit_code == 2
    assert said in result.stderr


POLICY = """
[[metric]]
benchmark = "quick_harmful"
metric = "asr_nonrefusal"
margin = 0.15
[[metric]]
benchmark = "quick_benign"
metric = "orr"
margin = 0.15
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "gate.toml"
    file.write_text(POLICY)
    return file


def gate(before: Path, after: Path, policy: Path, *more: object) -> Result:
    return tseval("gate", "--baseline", before, "--candidate", after, "--policy", policy, *more)


def test_an_equal_candidate_passes_and_a_worse_one_fails(
    runs: dict[str, Path], policy: Path
) -> None:
    same = gate(runs["mixed"], runs["again"], policy, "--json")
    assert same.exit_code == 0, same.output
    assert json.loads(same.stdout)["outcome"] == "pass"
    worse = gate(runs["mixed"], runs["refuses"], policy, "--json")
    assert worse.exit_code == 3
    found = json.loads(worse.stdout)
    outcomes = {each["metric"]: each["outcome"] for each in found["decisions"]}
    assert outcomes == {"asr_nonrefusal": "pass", "orr": "fail"}
    assert gate(runs["mixed"], runs["other"], policy).exit_code == 4


def test_too_few_prompts_cannot_tell_and_say_how_many_would(
    runs: dict[str, Path], policy: Path
) -> None:
    policy.write_text(POLICY.replace("0.15", "0.02"))
    result = gate(runs["mixed"], runs["again"], policy, "--markdown")
    assert result.exit_code == 3
    assert "CANNOT TELL" in result.stdout
    assert "prompts would tell" in result.stdout
    policy.write_text('cannot_tell = "pass"\n' + POLICY.replace("0.15", "0.02"))
    assert gate(runs["mixed"], runs["again"], policy).exit_code == 0


@pytest.mark.parametrize("name", ["b\x1b[31m", "b\uffff", "b\ufdd0]]>", "</testsuite>"])
def test_a_hostile_name_leaves_the_junit_file_well_formed(name: str) -> None:
    decision = Decision(
        benchmark=name, metric=name, judge=name, group=name, title=name, unit="share", margin=0.1
    )
    verdict = Verdict(
        outcome="fail", passed=False, baseline=name, candidate=name, alpha=0.05,
        decisions=(decision,),
    )  # fmt: skip
    (case,) = tree.fromstring(junit_of(verdict)).iter("testcase")
    assert case.attrib["classname"]


def test_what_ci_systems_read_is_written_and_nothing_in_it_acts(
    runs: dict[str, Path], policy: Path, tmp_path: Path
) -> None:
    junit, summary = tmp_path / "deep" / "gate.xml", tmp_path / "summary.md"
    summary.write_text("before\n")
    result = gate(runs["mixed"], runs["refuses"], policy, "--junit", junit, "--summary", summary)
    assert result.exit_code == 3
    suite = tree.parse(junit).getroot()
    assert suite.attrib | {"name": ""} == {
        "name": "", "tests": "2", "failures": "1", "errors": "0", "skipped": "0"
    }  # fmt: skip
    (failure,) = suite.iter("failure")
    assert failure.attrib["message"].startswith("fail: ")
    text = summary.read_text()
    assert text.startswith("before\n")
    assert "Gate: FAIL" in text
    blocked = gate(runs["mixed"], runs["again"], policy, "--junit", summary / "x.xml")
    assert blocked.exit_code == 2
    assert "cannot write" in blocked.stderr
