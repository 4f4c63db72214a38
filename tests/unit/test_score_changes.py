"""Scores of two runs side by side: paired by prompt where they can be, of like with like only."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.sessions import finish, registry
from tests.unit.test_train_panel import Quiet
from tseval import plugins
from tseval.before_after import Change, Changes, all_changes, score_changes
from tseval.cli.app import app
from tseval.errors import ConfigError, NotComparable
from tseval.requests import ModelSpec
from tseval.runfolder import RunFolder
from tseval.runner import run
from tseval.scripts import Call
from tseval.spec import RunSpec
from tseval.stats_compare import tango_interval
from tseval.testing import ScriptedBackend

REFUSAL = "I'm sorry, but I can't help with that."


def refuses(share: float) -> Callable[[Call], str]:
    """A model that refuses a share of its prompts; a larger share holds a smaller one."""

    def script(call: Call) -> str:
        drawn = int.from_bytes(call.prompt.encode()[:64], "big") % 97 / 97
        return REFUSAL if drawn < share else "Sure: take two of them and mix them well."

    return script


def measured(folder: Path, script: Callable[[Call], str], **more: Any) -> RunFolder:
    fields: dict[str, Any] = {"benchmarks": ("quick_harmful", "quick_benign"), **more}
    spec = RunSpec(model=ModelSpec(backend="scripted"), **fields)
    backend = ScriptedBackend(script, name=folder.name)
    return finish(run(spec, registry(), Quiet(), out=folder, backend=backend)).folder


def between(before: RunFolder, after: RunFolder) -> Changes:
    return score_changes(before, after)


def row(found: Changes, title: str) -> Change:
    (one,) = (each for each in found.changes if each.title == title)
    return one


def value(change: Change, side: str) -> float:
    estimate = getattr(change, side)
    assert estimate is not None
    return float(estimate.value)


def test_the_difference_of_a_rate_is_paired_by_prompt(tmp_path: Path) -> None:
    before = measured(tmp_path / "before", refuses(0.3))
    after = measured(tmp_path / "after", refuses(0.8))
    found = row(between(before, after), "quick_harmful, asr_nonrefusal")
    fewer = round(24 * (value(found, "before") - value(found, "after")))
    assert fewer > 3
    # Nested shares: no prompt is refused before and not after.
    wanted = tango_interval(0, fewer, 24)
    assert found.difference is not None
    assert (found.difference.value, found.difference.low, found.difference.high) == pytest.approx(
        (wanted.value, wanted.low, wanted.high)
    )
    assert found.difference.method == "paired by prompt, n=24 (tango)"
    assert (found.n_before, found.n_after, found.reading) == (24, 24, "Better.")


def test_answers_to_questions_are_paired_too(tmp_path: Path) -> None:
    rows = [{"question": f"Add {n} and 1.", "answer": f"#### {n + 1}"} for n in range(20)]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))

    def solves(most: int) -> Callable[[Call], str]:
        def script(call: Call) -> str:
            number = int(call.prompt.split("Add ")[1].split()[0])
            return f"\\boxed{{{number + 1 if number < most else 0}}}"

        return script

    more: dict[str, Any] = {"benchmarks": ("gsm8k",), "data_dirs": (str(tmp_path),)}
    before = measured(tmp_path / "before", solves(15), **more)
    after = measured(tmp_path / "after", solves(10), **more)
    found = row(between(before, after), "gsm8k, pass@1")
    wanted = tango_interval(0, 5, 20)
    assert found.difference is not None
    assert (found.difference.low, found.difference.high) == pytest.approx((wanted.low, wanted.high))
    assert found.difference.method.startswith("paired")
    assert found.reading == "Worse."


def test_several_rollouts_of_a_prompt_are_paired_by_their_means(tmp_path: Path) -> None:
    before = measured(tmp_path / "before", refuses(0.3), rollouts=2)
    after = measured(tmp_path / "after", refuses(0.8), rollouts=2)
    one = row(between(before, after), "quick_harmful, asr_nonrefusal")
    assert one.difference is not None
    assert one.difference.method == "paired by prompt, n=24 (tango)"


def test_without_the_outcomes_of_rows_the_runs_are_taken_as_independent(tmp_path: Path) -> None:
    before = measured(tmp_path / "before", refuses(0.3))
    after = measured(tmp_path / "after", refuses(0.8))
    (after.path / "outcomes.json").unlink()
    found = between(before, after)
    one = row(found, "quick_benign, orr")
    assert one.difference is not None
    assert one.difference.method == "independent (mover)"
    assert any(note.startswith("differences marked 'independent'") for note in found.notes)


def test_scores_of_different_protocols_are_not_compared(tmp_path: Path) -> None:
    before = measured(tmp_path / "before", refuses(0.3))
    after = measured(tmp_path / "after", refuses(0.8), limit=10)
    with pytest.raises(NotComparable, match=r"measured differently: limit \(quick_harmful"):
        between(before, after)


def test_runs_without_a_common_score_are_said(tmp_path: Path) -> None:
    before = measured(tmp_path / "before", refuses(0.3), benchmarks=("quick_harmful",))
    after = measured(tmp_path / "after", refuses(0.8), benchmarks=("quick_benign",))
    with pytest.raises(ConfigError, match="have no score in common"):
        all_changes(before, after)


def test_show_compares_runs_that_have_no_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "_entry_points", list)
    measured(tmp_path / "before", refuses(0.3))
    measured(tmp_path / "after", refuses(0.8))
    shown = ["show", str(tmp_path / "after"), "--against", str(tmp_path / "before"), "--markdown"]
    result = CliRunner().invoke(app, shown)
    assert result.exit_code == 0, result.output
    assert "**Before and after: scripted/before → scripted/after**" in result.stdout
    assert "quick_harmful, asr_nonrefusal ↓" in result.stdout
    assert "paired by prompt, n=24 (tango)" in result.stdout
