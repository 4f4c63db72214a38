"""lm-eval tasks through the command line: worker processes, isolation, resume, export."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import lm_eval_toys as toys

pytestmark = pytest.mark.slow

# The command, and then which heavy modules its own process has loaded.
CODE = """
import sys
from tseval.cli import main
try:
    main()
finally:
    heavy = {"lm_eval", "datasets", "torch", "evaluate"} & set(sys.modules)
    sys.stderr.write(f"heavy: {sorted(heavy)}\\n")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run with a task that works, a group of choices, and a task whose scorer is broken."""
    folder = tmp_path_factory.mktemp("lm-eval")
    names = [toys.sums_task(folder), group(folder), broken(folder)]
    out = folder / "run"
    return out, measure(folder, names, out)


def measure(folder: Path, names: list[str], out: Path) -> subprocess.CompletedProcess[str]:
    script = "script=tests.support.lm_eval_toys:add_or_name"
    named = ["--benchmark", ",".join(names), "--out", str(out)]
    return tseval(folder, "run", "--model", "scripted/", "-M", script, *named)


def group(folder: Path) -> str:
    for name, count in (("toy_small", 2), ("toy_large", 5)):
        toys.choice_task(folder, name, count=count)
    metric = {"metric": "acc", "aggregation": "mean", "weight_by_size": True}
    task = {"group": "toy_group", "task": ["toy_small", "toy_large"]}
    return toys.write_task(folder / "toy_group.yaml", {**task, "aggregate_metric_list": [metric]})


def broken(folder: Path) -> str:
    place = folder / "broken"
    place.mkdir()
    name = toys.sums_task(place, task="toy_broken")
    (place / "scorer.py").write_text("def score(doc, results):\n    raise ValueError('no such')\n")
    with (place / "toy_broken.yaml").open("a") as file:
        file.write("process_results: !function scorer.score\n")
    return name


def tseval(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-c", CODE, *arguments]
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


def scores(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "scores.json").read_text())
    return found


def test_a_broken_scorer_loses_its_task_only(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, done = run
    assert done.returncode == 1, done.stderr
    card = scores(out)
    (failed,) = card["failed"]
    assert failed.endswith("toy_broken.yaml")
    assert "cannot be scored: ValueError: no such" in card["failed"][failed]
    measured = {score["benchmark"].rpartition("/")[2] for score in card["scores"]}
    assert measured == {"toy_sums.yaml", "toy_group.yaml"}
    strict = next(s for s in card["scores"] if s["metric"] == "exact_match,strict-match")
    assert strict["estimate"]["value"] == 1.0


def test_tsevals_own_process_never_loads_lm_eval(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    assert "heavy: []" in run[1].stderr


def test_the_same_command_generates_nothing_again(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, _ = run
    before = (out / "scores.json").read_bytes()
    manifest = json.loads((out / "run.json").read_text())
    again = measure(out.parent, manifest["spec"]["benchmarks"], out)
    assert "0 rollouts made, 24 found in the journal" in again.stderr
    assert (out / "scores.json").read_bytes() == before


def test_the_export_is_read_by_lm_eval(
    run: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    from lm_eval import utils

    out, _ = run
    done = tseval(tmp_path, "export", str(out), "--format", "lm-eval", "--out", str(tmp_path / "e"))
    assert done.returncode == 0, done.stderr
    files = [Path(line) for line in done.stdout.splitlines()]
    names = [str(file) for file in files]
    (results_file,) = utils.get_results_filenames(names)
    samples = utils.get_sample_results_filenames(names)
    assert len(samples) == 3
    tasks = {utils.get_file_task_name(Path(name).name) for name in samples}
    assert tasks == {"toy_sums", "toy_small", "toy_large"}
    times = {utils.get_file_datetime(Path(name).stem) for name in names}
    assert len(times) == 1
    results = json.loads(Path(results_file).read_text())
    table = utils.make_table(results)
    assert "|toy_sums" in table
    assert "|strict-match" in table
    assert "|toy_group" in utils.make_table(results, "groups")


def test_the_export_has_the_fields_of_lm_evals_schema(
    run: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    from lm_eval.result_schema import EvalResults

    out, _ = run
    done = tseval(tmp_path, "export", str(out), "--out", str(tmp_path))
    results_file, *samples = map(Path, done.stdout.splitlines())
    results = json.loads(results_file.read_text())
    assert set(results) - set(EvalResults.__annotations__) == {"tseval_version"}
    row = json.loads(next(file for file in samples if "sums" in file.name).open().readline())
    assert set(row) == {
        *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
        *("doc_hash", "prompt_hash", "target_hash", "exact_match"),
    }
    assert list(row["arguments"]["gen_args_0"]) == ["arg_0", "arg_1"]
    assert row["resps"] == [["Adding. #### 6\n\n"]]


def test_samples_are_read_as_a_dataset(
    run: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    import datasets

    out, _ = run
    done = tseval(tmp_path, "export", str(out), "--out", str(tmp_path))
    for file in done.stdout.splitlines()[1:]:
        rows = datasets.load_dataset(
            "json", data_files=file, split="train", cache_dir=str(tmp_path / "cache")
        )
        assert len(rows) > 0


def test_a_run_without_lm_eval_tasks_has_nothing_to_export(tmp_path: Path) -> None:
    out = tmp_path / "run"
    tseval(tmp_path, "run", "--model", "scripted/", "--limit", "1", "--out", str(out))
    done = tseval(tmp_path, "export", str(out))
    assert done.returncode == 2
    assert "holds no scored lm-eval benchmark" in done.stderr
    assert "hint: tseval run --benchmark lm-eval/NAME makes one" in done.stderr
