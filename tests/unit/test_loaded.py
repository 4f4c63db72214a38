"""A run read back in Python: what it says is what was measured, and what is missing is said."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tseval
from tests.support.exported_runs import exported_run
from tests.support.measured import measurement
from tests.support.sessions import finish
from tseval.arrays import ArrayStore
from tseval.errors import ConfigError, JournalError, UnknownName
from tseval.runfolder import RunFolder
from tseval.tabular import TABLES, measurement_lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_run(tmp_path_factory.mktemp("loaded") / "run")


@pytest.fixture
def run(folder: Path) -> tseval.Run:
    return tseval.load_run(folder)


def test_each_score_has_its_interval_its_denominator_and_its_protocol(run: tseval.Run) -> None:
    assert len(run.scores) == 6
    for score in run.scores:
        assert score.estimate is not None
        assert score.estimate.low <= score.estimate.value <= score.estimate.high
        assert (score.n, score.n_prompts) == (48, 24)
        protocol = run.protocol_of(score)
        assert (protocol["benchmark"], protocol["metric"]) == (score.benchmark, score.metric)
        assert protocol["judge"]["name"] == score.judge


def test_a_score_is_found_by_name_and_never_guessed(run: tseval.Run) -> None:
    found = run.score("quick_benign", "orr", "asking")
    assert (found.benchmark, found.metric, found.judge) == ("quick_benign", "orr", "asking")
    with pytest.raises(ConfigError, match="has 2 of quick_benign orr: of refusal-rules, asking"):
        run.score("quick_benign", "orr")
    with pytest.raises(ConfigError, match=r"no quick_benign asr_harmful \(it has: quick_h"):
        run.score("quick_benign", "asr_harmful")


def test_the_rate_can_be_made_again_of_the_verdicts(run: tseval.Run) -> None:
    for judge in ("refusal-rules", "asking"):
        score = run.score("quick_benign", "orr", judge)
        said = [each.verdict.refusal for each in run.verdicts("quick_benign", judge)]
        assert len(said) == score.n
        assert score.estimate is not None
        assert sum(said) / len(said) == pytest.approx(score.estimate.value)


def test_outcomes_are_those_of_the_score_and_join_with_the_rollouts(run: tseval.Run) -> None:
    score = run.score("quick_harmful", "asr_nonrefusal", "refusal-rules")
    outcomes = run.outcomes(score)
    assert score.estimate is not None
    values = [each.value for each in outcomes if each.value is not None]
    assert len(values) == score.n
    rollouts = run.to_frame("rollouts").query("benchmark == 'quick_harmful'")
    assert set(rollouts["row"]) == {each.row for each in outcomes}
    verdicts = run.to_frame("verdicts").query("judge == 'refusal-rules'")
    joined = verdicts.merge(run.to_frame("outcomes"), on=["benchmark", "row", "rollout", "judge"])
    counted = joined[joined["metric"] == "asr_nonrefusal"]
    assert len(counted) == score.n
    assert (counted["value"] == 1 - counted["refusal"].astype(float)).all()


def test_rollouts_keep_the_trace_apart_from_the_answer(run: tseval.Run) -> None:
    stored = list(run.rollouts("quick_harmful"))
    assert len(stored) == 48
    for each in stored:
        assert each.rollout is not None
        assert each.rollout.trace.startswith("traced-mark")
        assert "traced-mark" not in (each.rollout.answer or "")
        assert set(each.verdicts) == {"refusal-rules", "asking"}


def test_every_table_has_its_columns_also_without_rows(run: tseval.Run) -> None:
    for name, columns in TABLES.items():
        frame = run.to_frame(name)
        assert list(frame.columns) == list(columns)
    assert len(run.to_frame("measurements")) == 0
    assert len(run.to_frame("verdicts")) == 192
    with pytest.raises(UnknownName, match="unknown table 'row'"):
        run.to_frame("row")  # type: ignore[arg-type]


def test_what_a_judge_does_not_say_is_missing_and_never_false(run: tseval.Run) -> None:
    verdicts = run.to_frame("verdicts")
    assert verdicts["harmful"].isna().all()
    assert verdicts["refusal"].notna().all()
    assert str(verdicts["refusal"].dtype) == "boolean"


def test_numbers_of_probes_are_rows_with_their_null() -> None:
    first, undefined, _ = measurement_lines([measurement()])
    assert set(first) == set(TABLES["measurements"])
    assert (first["value"], first["low"], first["null_value"]) == (0.8734, 0.7, 0.5)
    assert (undefined["value"], undefined["undefined"]) == (None, "undefined: 4 refusals")


def test_hidden_states_are_read_as_arrays_when_they_are_asked_for(
    folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    store = ArrayStore(copy / "arrays", gather_seconds=0.0)
    # The second is beyond float16, and kept as bfloat16.
    states = {"a" * 32: np.ones((2, 3), np.float32), "b" * 32: np.full((1, 4), 1e6, np.float32)}

    async def write() -> None:
        for key, values in states.items():
            await store.write(key, values)

    finish(write())
    found = tseval.load_run(copy).hidden_states
    assert set(found) == set(states)
    for key, values in states.items():
        assert found[key].dtype == np.float32
        np.testing.assert_allclose(found[key], values, rtol=0.01)
    assert len(tseval.load_run(folder).hidden_states) == 0
    (copy / "arrays" / "00000.safetensors").write_bytes(b"broken")
    with pytest.raises(JournalError, match=r"cannot read .*00000.safetensors"):
        len(tseval.load_run(copy).hidden_states)


def test_a_run_without_scores_can_still_be_read(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    (copy / "scores.json").unlink()
    begun = RunFolder.load(copy)
    begun.manifest.status = "interrupted"
    begun.save()
    run = tseval.load_run(str(copy))
    assert run.status == "interrupted"
    assert len(list(run.rollouts())) == 96
    with pytest.raises(ConfigError, match=r"has no scores yet \(status: interrupted\)"):
        _ = run.scores


def test_a_run_without_outcomes_says_how_to_get_them(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    (copy / "outcomes.json").unlink()
    run = tseval.load_run(copy)
    with pytest.raises(ConfigError, match="has no outcomes") as caught:
        run.outcomes(run.scores[0])
    assert "tseval run" in caught.value.hint


def test_a_run_without_its_journal_has_scores_and_no_rollouts(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "run", ignore=lambda *_: {"journal"}))
    run = tseval.load_run(copy)
    assert len(run.scores) == 6
    with pytest.raises(JournalError, match="no journal in"):
        list(run.rollouts())


def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run in"):
        tseval.load_run(tmp_path)


def test_a_score_that_is_no_mean_over_rows_has_no_outcomes(run: tseval.Run) -> None:
    other: Any = tseval.Score(benchmark="first_token", metric="refusal_auroc")
    with pytest.raises(ConfigError, match="first_token refusal_auroc is no mean over rows"):
        run.outcomes(other)
