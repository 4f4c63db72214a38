"""Logs for Inspect, read back with the real package: the same rollouts, verdicts and numbers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tseval
from tests.support.exported_runs import IN_ANSWER, IN_TRACE, exported_run, hostile
from tseval.errors import RequestFailed
from tseval.exports.inspect_log import InspectExporter
from tseval.runfolder import RunFolder
from tseval.testing import Call

# The package alone takes seconds to import.
pytestmark = pytest.mark.slow
pytest.importorskip("inspect_ai")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_run(tmp_path_factory.mktemp("inspect") / "run")


@pytest.fixture(scope="module")
def whole(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Logs by benchmark, with every text."""
    return logs(run, tmp_path_factory.mktemp("whole"), redact=False)


def logs(run: Path, out: Path, **flags: Any) -> dict[str, Path]:
    return {read(file).eval.task: file for file in InspectExporter().export(run, out, **flags)}


def read(file: Path) -> Any:
    from inspect_ai.log import read_eval_log

    return read_eval_log(str(file))


def test_each_rollout_is_a_sample_with_its_trace_apart_from_its_answer(
    run: Path, whole: dict[str, Path]
) -> None:
    for benchmark, file in whole.items():
        log = read(file)
        assert log.status == "success"
        samples = {(sample.id, sample.epoch): sample for sample in log.samples}
        stored = list(tseval.load_run(run).rollouts(benchmark))
        assert len(samples) == len(stored) == 48
        for each in stored:
            sample = samples[each.row.sample, each.row.rollout + 1]
            rollout = each.rollout
            assert rollout is not None
            assert [message.role for message in sample.messages] == ["system", "user", "assistant"]
            assert sample.messages[0].content == "Be brief."
            assert sample.messages[1].content == each.row.prompt
            thought, said = sample.messages[2].content
            assert (thought.type, thought.reasoning) == ("reasoning", rollout.trace)
            assert (said.type, said.text) == ("text", rollout.answer)
            assert sample.output.completion == rollout.answer
            usage = sample.output.usage
            assert usage.reasoning_tokens == rollout.trace_tokens
            assert usage.output_tokens == rollout.trace_tokens + rollout.answer_tokens
            assert usage.input_tokens == rollout.prompt_tokens
            assert sample.error is None


def test_each_judge_is_a_score_with_its_labels_and_what_it_wrote(
    run: Path, whole: dict[str, Path]
) -> None:
    log = read(whole["quick_benign"])
    samples = {(sample.id, sample.epoch): sample for sample in log.samples}
    for row, judge, verdict in tseval.load_run(run).verdicts("quick_benign"):
        score = samples[row.sample, row.rollout + 1].scores[judge]
        assert score.value["refusal"] is verdict.refusal
        assert score.value["harmful"] is None
        assert score.value["reason"] == "ok"
        assert score.explanation == verdict.raw


def test_metrics_are_those_of_the_scorecard_with_interval_and_protocol(
    run: Path, whole: dict[str, Path]
) -> None:
    opened = tseval.load_run(run)
    for benchmark, file in whole.items():
        log = read(file)
        wanted = [score for score in opened.scores if score.benchmark == benchmark]
        assert len(log.results.scores) == len(wanted)
        for found, score in zip(log.results.scores, wanted, strict=True):
            metric = found.metrics[score.metric]
            assert score.estimate is not None
            assert (found.scorer, metric.value) == (score.judge, score.estimate.value)
            assert metric.metadata["low"] == score.estimate.low
            assert metric.metadata["high"] == score.estimate.high
            assert (metric.metadata["n"], found.scored_samples) == (48, 48)
            protocol = log.eval.task_args["protocols"][metric.metadata["protocol"]]
            assert protocol == opened.protocol_of(score)
        assert log.eval.model_generate_config.temperature == 0.6
        assert log.eval.model_generate_config.top_k is None
        assert log.eval.config.epochs == 2
        total = sum(each.output.usage.total_tokens for each in log.samples)
        assert log.stats.model_usage[log.eval.model].total_tokens == total


def test_a_redacted_log_has_no_answer_to_a_harmful_prompt(run: Path, tmp_path: Path) -> None:
    files = logs(run, tmp_path)
    harmful = read(files["quick_harmful"])
    text = harmful.model_dump_json()
    assert IN_ANSWER not in text
    assert IN_TRACE not in text
    assert harmful.eval.metadata["redacted"] is True
    for sample in harmful.samples:
        assert sample.metadata["redacted"] is True
        assert sample.output.completion.startswith("(left out")
        assert sample.scores["refusal-rules"].value["refusal"] in (True, False)
    assert IN_ANSWER in read(files["quick_benign"]).model_dump_json()


def test_a_rollout_that_failed_is_a_sample_with_an_error(tmp_path: Path) -> None:
    def failing(call: Call) -> str:
        if call.share("fails") < 0.2:
            raise RequestFailed("no answer from the engine", kind="timeout")
        return hostile(call)

    run = exported_run(tmp_path / "run", script=failing)
    opened = tseval.load_run(run)
    log = read(logs(run, tmp_path / "out")["quick_harmful"])
    lost = [each.row.failed for each in opened.rollouts("quick_harmful") if each.rollout is None]
    errors = [sample.error.message for sample in log.samples if sample.error is not None]
    assert lost
    assert sorted(errors) == sorted(lost)
    assert log.results.completed_samples == len(log.samples) - len(lost)
    score = next(each for each in log.results.scores if each.scorer == "refusal-rules")
    assert score.unscored_samples == len(lost)
    assert opened.status in log.eval.metadata["tseval_status"]


def test_the_log_of_an_interrupted_run_says_so(run: Path, tmp_path: Path) -> None:
    import shutil

    copy = RunFolder.load(Path(shutil.copytree(run, tmp_path / "run")))
    copy.manifest.status = "interrupted"
    copy.save()
    for file in logs(copy.path, tmp_path / "out").values():
        assert read(file).status == "cancelled"


def test_an_undefined_number_is_no_metric_and_says_why(run: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(run, tmp_path / "run"))
    card = json.loads((copy / "scores.json").read_bytes())
    card["scores"][0] |= {"estimate": None, "undefined": "undefined: nothing counted"}
    (copy / "scores.json").write_text(json.dumps(card))
    score = read(logs(copy, tmp_path / "out")["quick_harmful"]).results.scores[0]
    assert score.metrics == {}
    assert score.metadata["undefined"] == "undefined: nothing counted"


def test_inspects_own_commands_open_the_logs(whole: dict[str, Path], tmp_path: Path) -> None:
    file = whole["quick_harmful"]

    def inspect(*arguments: object) -> str:
        command = [sys.executable, "-m", "inspect_ai._cli.main", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    dumped = json.loads(inspect("log", "dump", file))
    assert (dumped["eval"]["task"], len(dumped["samples"])) == ("quick_harmful", 48)
    bundle = tmp_path / "bundle"
    inspect("view", "bundle", "--log-dir", file.parent, "--output-dir", bundle)
    assert (bundle / "index.html").is_file()
    listed = [json.loads(each.read_bytes()) for each in bundle.rglob("listing.json")]
    assert sorted(entry["task"] for each in listed for entry in each.values()) == sorted(whole)


def test_no_log_says_where_a_server_stands(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    card = json.loads((copy / "scores.json").read_bytes())
    card["subject"]["identity"]["server"] = "http://10.0.0.7:8000/v1"
    (copy / "scores.json").write_text(json.dumps(card), encoding="utf-8")
    for file in logs(copy, tmp_path / "out", redact=True).values():
        spec = read(file).eval
        assert spec.model_args["server"] == "(address left out)"
        assert "10.0.0.7" not in spec.model_dump_json()
