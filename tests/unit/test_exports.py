"""What each format says of a run: the same numbers, and no answer to a harmful prompt unasked."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner, Result

import tseval
from tests.support.exported_runs import HOSTILE, IN_ANSWER, IN_TRACE, exported_run
from tests.support.sessions import registry
from tseval.cards import Source
from tseval.cli.app import app
from tseval.errors import CapabilityMissing, ConfigError
from tseval.exports import parquet
from tseval.exports._common import plain_name, source_of, whole_file
from tseval.exports.every_eval_ever import EveryEvalEverExporter, Record
from tseval.exports.hf_card import HfCardExporter
from tseval.exports.parquet import ParquetExporter
from tseval.lm_eval_tasks.export import LmEvalExporter
from tseval.loaded import public
from tseval.runfolder import RunFolder
from tseval.tabular import TABLES


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_run(tmp_path_factory.mktemp("exports") / "run")


def copied(run: Path, place: Path) -> Path:
    return Path(shutil.copytree(run, place))


def rescored(run: Path, place: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Copy a run, with a change of its scorecard."""
    copy = copied(run, place)
    card = json.loads((copy / "scores.json").read_bytes())
    change(card)
    (copy / "scores.json").write_bytes(msgspec.json.encode(card))
    return copy


def tseval_export(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


# -- parquet


def table(files: list[Path], name: str) -> Any:
    (file,) = [file for file in files if file.stem == name]
    return pq.read_table(file)


def test_parquet_has_every_row_with_the_types_of_its_table(run: Path, tmp_path: Path) -> None:
    files = ParquetExporter().export(run, tmp_path, redact=False)
    assert [file.stem for file in files] == ["rollouts", "verdicts", "scores", "outcomes"]
    opened = tseval.load_run(run)
    for file in files:
        found = pq.read_table(file)
        assert found.column_names == list(TABLES[file.stem])
        lines = list(opened.lines(file.stem))
        for name in ("benchmark", "answer", "trace", "refusal", "value", "n", "raw", "seed"):
            if name in found.column_names:
                assert found.column(name).to_pylist() == [line[name] for line in lines]
    rollouts = table(files, "rollouts")
    assert str(rollouts.schema.field("prompt_harmful").type) == "bool"
    assert pa.types.is_map(rollouts.schema.field("tags").type)
    assert HOSTILE.replace("</think> ", "\n").split("\n")[0] in rollouts.column("answer")[0].as_py()


def test_redacted_parquet_has_no_answer_to_a_harmful_prompt(run: Path, tmp_path: Path) -> None:
    files = ParquetExporter().export(run, tmp_path)
    assert pq.read_schema(files[0]).metadata[b"tseval.redacted"] == b"yes"
    harmful = [row for row in table(files, "rollouts").to_pylist() if row["prompt_harmful"]]
    assert len(harmful) == 48
    for row in harmful:
        assert row["redacted"] is True
        assert [row[name] for name in ("trace", "answer", "trace_ids", "answer_ids")] == [None] * 4
        assert row["answer_tokens"] > 0
    for row in table(files, "verdicts").to_pylist():
        assert (row["raw"] is None) == (row["details"] is None) == row["prompt_harmful"]
        assert row["refusal"] is not None
    benign = [row for row in table(files, "rollouts").to_pylist() if not row["prompt_harmful"]]
    assert all(row["answer"] and row["trace"] for row in benign)


def test_rows_are_written_in_groups_and_none_is_lost(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_ROWS", 10)
    rollouts, verdicts, *_ = ParquetExporter().export(run, tmp_path)
    assert pq.ParquetFile(rollouts).metadata.num_row_groups == 10
    assert pq.ParquetFile(rollouts).metadata.num_rows == 96
    assert pq.ParquetFile(verdicts).metadata.num_rows == 192


def test_a_run_whose_journal_is_gone_leaves_no_parquet_file(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path / "run")
    shutil.rmtree(copy / "journal")
    with pytest.raises(tseval.JournalError, match="no journal in"):
        ParquetExporter().export(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_without_outcomes_has_no_such_table(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path / "run")
    (copy / "outcomes.json").unlink()
    files = ParquetExporter().export(copy, tmp_path / "out")
    assert [file.stem for file in files] == ["rollouts", "verdicts", "scores"]


# -- hf-card


def card_of(run: Path, out: Path) -> tuple[ModelCard, str]:
    (file,) = HfCardExporter().export(run, out)
    text = file.read_text(encoding="utf-8")
    return ModelCard(text), text


def test_a_model_card_holds_every_number_under_its_own_name(run: Path, tmp_path: Path) -> None:
    card, text = card_of(run, tmp_path)
    results = {
        (each.dataset_config, each.metric_type, each.metric_args["judge"]): each
        for each in card.data.eval_results
    }
    scores = tseval.load_run(run).scores
    assert len(results) == len(scores) == 6
    for score in scores:
        found = results[score.benchmark, score.metric, score.judge]
        estimate = score.estimate
        assert estimate is not None
        assert found.metric_value == estimate.value
        assert (found.metric_args["low"], found.metric_args["high"]) == (
            estimate.low,
            estimate.high,
        )
        assert (found.metric_args["n"], found.metric_args["protocol"]) == (48, score.fingerprint)
        assert found.dataset_name == score.benchmark
        assert "fraction" in (found.metric_name or "")
        if score.metric == "asr_nonrefusal_substantive":
            continue  # as good as the number above it: tables leave it out
        row = next(line for line in text.splitlines() if score.fingerprint in line and "|" in line)
        assert f"{100 * estimate.value:.1f}%" in row
        assert f"[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]" in row


def test_two_parts_of_a_benchmark_are_not_merged_in_a_card(run: Path, tmp_path: Path) -> None:
    def parts(card: dict[str, Any]) -> None:
        first = card["scores"][0]
        card["scores"] = [first | {"group": group} for group in ("contextual", "standard")]

    card, _ = card_of(rescored(run, tmp_path / "run", parts), tmp_path / "out")
    assert [each.dataset_name for each in card.data.eval_results] == [
        "quick_harmful · contextual",
        "quick_harmful · standard",
    ]


def test_undefined_numbers_and_members_of_panels_are_not_in_a_cards_metadata(
    run: Path, tmp_path: Path
) -> None:
    def change(card: dict[str, Any]) -> None:
        card["scores"][0] |= {"estimate": None, "undefined": "undefined: nothing counted"}
        card["scores"][1]["member"] = True

    card, text = card_of(rescored(run, tmp_path / "run", change), tmp_path / "out")
    assert len(card.data.eval_results) == 4
    assert "undefined: nothing counted" in text


def test_a_partial_number_is_called_partial(tmp_path: Path) -> None:
    limited = exported_run(tmp_path / "run", limit=3)
    card, text = card_of(limited, tmp_path / "out")
    assert {each.dataset_name for each in card.data.eval_results} == {
        "quick_harmful (partial)",
        "quick_benign (partial)",
    }
    assert "subset of the benchmark's rows" in text


def test_a_hostile_name_neither_ends_the_metadata_nor_acts_in_the_text(
    run: Path, tmp_path: Path
) -> None:
    card, text = card_of(run, tmp_path)
    assert text.count("\n---\n") == 1
    assert "\u202e" not in text
    assert "<b>" not in text.split("\n---\n")[1]
    assert card.data.model_name.startswith("scripted/evil/")


@pytest.mark.parametrize("exporter", [HfCardExporter(), EveryEvalEverExporter()])
@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_an_unfinished_run_is_not_published(
    run: Path, tmp_path: Path, exporter: Any, status: Any
) -> None:
    copy = RunFolder.load(copied(run, tmp_path / "run"))
    copy.manifest.status = status
    copy.save()
    with pytest.raises(ConfigError, match=rf"is not finished \(status: {status}\)"):
        exporter.export(copy.path, tmp_path / "out")


def test_the_hub_is_named_only_for_the_rows_that_it_has(run: Path) -> None:
    opened = tseval.load_run(run)
    name, card = next(
        (name, each.card)
        for name, each in registry().benchmarks.items()
        if getattr(each.card, "content_hash", "") and each.card.source.hub
    )
    score = msgspec.structs.replace(opened.scores[0], benchmark=name)
    protocol = opened.scorecard.protocols[score.fingerprint]
    assert source_of(opened, score, registry()) is None
    protocol["content_hash"] = card.content_hash
    found = source_of(opened, score, registry())
    assert isinstance(found, Source)
    assert found.hub == card.source.hub
    assert source_of(opened, score, None) is None


# -- every-eval-ever


def record_of(run: Path, out: Path) -> Record:
    (file,) = EveryEvalEverExporter().export(run, out)
    collection, _, _, name = file.relative_to(out / "data").parts
    assert collection == "tseval"
    assert name[14] == "4"
    # Strict: a field that the schema does not have, or a wrong type, is an error.
    return msgspec.json.decode(file.read_bytes(), type=Record)


def test_a_record_holds_every_number_with_interval_and_denominator(
    run: Path, tmp_path: Path
) -> None:
    record = record_of(run, tmp_path)
    scores = tseval.load_run(run).scores
    assert record.schema_version == "0.3.0"
    assert len(record.evaluation_results) == len(scores)
    for score, result in zip(scores, record.evaluation_results, strict=True):
        estimate, details = score.estimate, result.score_details
        assert estimate is not None
        assert details.score == estimate.value
        interval = details.uncertainty.confidence_interval
        assert (interval.lower, interval.upper) == (estimate.low, estimate.high)
        assert details.uncertainty.num_samples == score.n
        assert (result.metric_config.min_score, result.metric_config.max_score) == (0, 1)
        assert result.metric_config.lower_is_better is True
        assert result.metric_config.additional_details["tseval_protocol"] == score.fingerprint
    assert len({result.evaluation_result_id for result in record.evaluation_results}) == 6


def test_a_record_says_what_the_schema_has_no_place_for(run: Path, tmp_path: Path) -> None:
    def change(card: dict[str, Any]) -> None:
        card["scores"][0] |= {"estimate": None, "undefined": "nothing"}
        card["scores"][1]["higher_is_better"] = None
        card["scores"][2] |= {"higher_is_better": True, "unit": "number"}

    record = record_of(rescored(run, tmp_path / "run", change), tmp_path / "out")
    assert len(record.evaluation_results) == 4
    assert record.source_metadata.additional_details["numbers_left_out"] == "2"
    metric = record.evaluation_results[0].metric_config
    assert (metric.min_score, metric.max_score) == ("-Infinity", "Infinity")
    assert metric.lower_is_better is False


def test_a_record_holds_no_address_and_nothing_that_acts(run: Path, tmp_path: Path) -> None:
    def change(card: dict[str, Any]) -> None:
        card["subject"]["identity"]["server"] = "http://10.0.0.7:8000/v1"

    copy = rescored(run, tmp_path / "run", change)
    (file,) = EveryEvalEverExporter().export(copy, tmp_path / "out")
    text = file.read_text(encoding="utf-8")
    assert "10.0.0.7" not in text
    assert "(address left out)" in text
    assert "\u202e" not in text
    assert public({"a": ["x", {"b": "ws://h"}], "n": 1}) == {
        "a": ["x", {"b": "(address left out)"}],
        "n": 1,
    }


@pytest.mark.parametrize(
    "name", ["..", "", "/", "a/../../b", ".hidden", "\x00", "x" * 300, "CON|?"]
)
def test_no_name_leads_out_of_its_folder(name: str) -> None:
    made = plain_name(name)
    assert made
    assert len(made) <= 80
    assert not set(made) & set('/\\:*?"<>|\0')
    assert not made.startswith(".")


def test_a_file_that_fails_half_way_leaves_nothing_and_keeps_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError), whole_file(tmp_path / "a.txt") as file:  # noqa: PT012
        file.write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


# -- the command


def test_several_formats_are_written_each_into_a_folder_of_its_own(
    run: Path, tmp_path: Path
) -> None:
    result = tseval_export(
        run, "--format", "parquet,hf-card", "--format", "every-eval-ever", "--out", tmp_path
    )
    assert result.exit_code == 0, result.output
    files = [Path(line) for line in result.stdout.splitlines()]
    assert all(file.exists() for file in files)
    folders = [file.relative_to(tmp_path).parts[0] for file in files]
    assert list(dict.fromkeys(folders)) == ["parquet", "hf-card", "every-eval-ever"]


@pytest.mark.parametrize(
    ("flags", "kept"), [((), False), (("--redact",), False), (("--no-redact",), True)]
)
def test_answers_to_harmful_prompts_are_left_out_unless_asked_for(
    run: Path, tmp_path: Path, flags: tuple[str, ...], kept: bool
) -> None:
    result = tseval_export(run, "--format", "parquet", "--out", tmp_path, *flags)
    assert result.exit_code == 0, result.output
    rows = pq.read_table(tmp_path / "rollouts.parquet").to_pylist()
    texts = [f"{row['answer']} {row['trace']}" for row in rows if row["prompt_harmful"]]
    assert any(IN_ANSWER in text for text in texts) is kept
    assert any(IN_TRACE in text for text in texts) is kept


def test_an_unknown_format_is_refused_before_anything_is_written(run: Path, tmp_path: Path) -> None:
    result = tseval_export(run, "--format", "parquet,inspekt", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "unknown exporter 'inspekt'" in result.stderr
    assert "every-eval-ever" in result.stderr
    assert "did you mean 'inspect'?" in result.stderr
    assert not (tmp_path / "out").exists()


def test_redacting_is_refused_where_a_format_cannot(run: Path, tmp_path: Path) -> None:
    result = tseval_export(run, "--format", "lm-eval", "--redact", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "the format 'lm-eval' cannot leave texts out" in result.stderr


def test_a_folder_that_cannot_be_written_is_one_line_and_exit_1(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = tseval_export(run, "--format", "parquet", "--out", tmp_path / "file")
    assert result.exit_code == 1
    assert "cannot write the export" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("format", "module", "command"),
    [
        ("inspect", "inspect_ai", "pip install 'tseval[inspect]'"),
        ("parquet", "pyarrow.parquet", "pip install pyarrow"),
        ("hf-card", "huggingface_hub", "pip install huggingface_hub"),
    ],
)
def test_a_missing_library_names_the_command_that_installs_it(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    format: str,
    module: str,
    command: str,
) -> None:
    for name in {module, *(each for each in sys.modules if each.startswith(f"{module}."))}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CapabilityMissing) as caught:
        registry().exporters[format].export(run, tmp_path / "out")
    assert command in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_lm_evals_results_hold_no_servers_address(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    manifest = json.loads((copy / "run.json").read_text(encoding="utf-8"))
    manifest["subject"]["identity"] |= {"server": "http://10.0.0.7:8000/v1", "commit": "beef"}
    (copy / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    (copy / "lm_eval").mkdir()
    (copy / "lm_eval" / "toy.json").write_text(json.dumps({"samples": {}, "results": {}}))
    (file,) = LmEvalExporter().export(copy, tmp_path / "out")
    assert "10.0.0.7" not in file.read_text(encoding="utf-8")
    arguments = json.loads(file.read_text(encoding="utf-8"))["config"]["model_args"]
    assert (arguments["server"], arguments["commit"]) == ("(address left out)", "beef")
