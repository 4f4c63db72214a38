"""What is said of an lm-eval task that cannot be loaded: which file, which line, what lacks."""

from pathlib import Path
from typing import Any

import pytest

from tests.support import lm_eval_toys as toys
from tseval.errors import DataError
from tseval.lm_eval_tasks._loading import load
from tseval.lm_eval_tasks.records import Order

TASK = {
    "task": "toy",
    "dataset_path": "json",
    "output_type": "generate_until",
    "test_split": "test",
    "doc_to_text": "{{q}}",
    "doc_to_target": "{{a}}",
    "metric_list": [{"metric": "exact_match"}],
}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def fault_of(file: Path) -> DataError:
    with pytest.raises(DataError) as error:
        load(Order(task="", folder=str(file.parent), file=str(file.resolve())))
    return error.value


def written(folder: Path, **changed: Any) -> Path:
    task = {key: value for key, value in {**TASK, **changed}.items() if value is not None}
    toys.write_task(folder / "toy.yaml", task)
    return folder / "toy.yaml"


def test_the_line_of_broken_yaml_is_named(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("task: broken\ndataset_path: json\n  test_split: [oops\n")
    fault = fault_of(file)
    assert "broken.yaml, line 3, column 13: no YAML (mapping values" in fault.message
    assert "mend that line" in fault.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("- one\n- two\n", "holds no fields, but a sequence"),
        ("output_type: generate_until\n", "defines no task and no group"),
        ("a: \x07\n", "is no YAML"),
    ],
)
def test_a_file_without_a_task_says_what_it_is_instead(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    assert f"odd.yaml {said}" in fault_of(file).message


def test_a_task_that_names_no_data_says_so(tmp_path: Path) -> None:
    fault = fault_of(written(tmp_path, dataset_path=None))
    assert fault.message == "task 'toy' names no data: it has no dataset_path"
    assert "'json' and its 'data_files'" in fault.hint


def test_an_empty_data_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n")
    files = {"data_files": {"test": str(tmp_path / "rows.jsonl")}}
    fault = fault_of(written(tmp_path, dataset_kwargs=files))
    assert fault.message == f"task 'toy': its data file {tmp_path / 'rows.jsonl'} is empty"


def test_a_data_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    files = {"data_files": {"test": [str(tmp_path / "nowhere.jsonl")]}}
    fault = fault_of(written(tmp_path, dataset_kwargs=files))
    assert fault.message == f"task 'toy': there is no data file {tmp_path / 'nowhere.jsonl'}"


def test_an_empty_file_in_a_data_dir_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "toy.jsonl").write_text("")
    file = written(tmp_path, dataset_path="somebody/toy")
    with pytest.raises(DataError, match=r"toy\.jsonl is empty"):
        load(Order(task="", folder=str(tmp_path), file=str(file), data_dirs=(str(data),)))


def test_what_is_no_fault_of_the_data_keeps_the_librarys_own_words(tmp_path: Path) -> None:
    toys.write_rows(tmp_path / "rows.jsonl", [{"q": "1+1?", "a": "2"}])
    files = {"data_files": {"test": str(tmp_path / "rows.jsonl")}}
    file = written(tmp_path, dataset_kwargs=files, output_type="generate_untill")
    with pytest.raises(ValueError, match="generate_untill"):
        load(Order(task="", folder=str(tmp_path), file=str(file)))
