"""In a worker: load a task or a group with lm-eval, from local data where there is some."""

import json
import random
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from tseval.errors import DataError
from tseval.tables import find_file

from ._columns import in_its_words
from ._faults import fault_in, no_task
from .records import Order, Refusal

# lm-eval's own defaults; few-shot examples and shuffles depend on them.
SEED, NUMPY_SEED, FEWSHOT_SEED = 0, 1234, 1234
# Datasets whose files in a --data-dir are named otherwise than the dataset.
_FILES = {
    "maxwell-jia/aime_2024": "aime24",
    "huggingfaceh4/math-500": "math500",
    "idavidrein/gpqa": "gpqa",
}
_BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_DEFAULT_CONFIGS = (None, "", "main", "default")


def load(order: Order) -> "dict[str, Any] | Refusal":
    """Load tasks and groups as ``TaskManager.load`` does, under lm-eval's default seeds.

    Returns:
        What ``TaskManager.load`` returns, or why the task is not run.

    Raises:
        DataError: Its file or its data cannot be read, or local data lacks a split that the task
            needs.
    """
    import jinja2

    seed()
    manager, name, leaves = _found(order)
    index = manager.task_index
    refusal = _refused(index, leaves, order)
    if refusal is not None:
        return refusal
    with tempfile.TemporaryDirectory() as folder:
        _redirect(index, leaves, order, Path(folder))
        seed()
        try:
            loaded: dict[str, Any] = manager.load(name)
        except jinja2.UndefinedError as error:
            raise DataError(
                f"its prompts name what its rows do not have: {error.message}",
                hint="call the columns of the file in the --data-dir as the task does",
            ) from error
        except Exception as error:
            # The library's own message is often that of something it tried to do with nothing.
            fault = fault_in(index, leaves)
            if fault is None:
                raise
            raise fault from error
    if not order.unsafe_code:
        unsafe = [n for n, task in loaded["tasks"].items() if getattr(task, "UNSAFE_CODE", False)]
        if unsafe:
            return refuse_code(unsafe)
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
    return loaded


def refused(order: Order) -> "Refusal | None":
    """Say why a task will not be run, from its files alone: no data is loaded."""
    manager, _, leaves = _found(order)
    return _refused(manager.task_index, leaves, order)


def seed() -> None:
    """Seed the global generators as lm-eval's ``simple_evaluate`` does."""
    import numpy as np

    random.seed(SEED)
    np.random.seed(NUMPY_SEED)


@contextmanager
def compiled_once() -> Iterator[None]:
    """Keep compiled prompt templates: lm-eval compiles each anew for every document.

    Equal sources give equal templates, so nothing changes but the time, which falls to a fifth.
    """
    from lm_eval.utils import env

    compile_ = env.from_string
    env.from_string = lru_cache(maxsize=4096)(compile_)
    try:
        yield
    finally:
        env.from_string = compile_


def refuse_code(tasks: list[str]) -> Refusal:
    """Say that tasks execute what the model writes."""
    return Refusal(
        kind="config",
        message=f"{', '.join(tasks)} runs code that the model wrote on this machine",
        hint="in a sandbox, confirm with --confirm-run-unsafe-code",
    )


def _found(order: Order) -> tuple[Any, str, list[str]]:
    """Index task files; name what is asked for, and the tasks below it."""
    manager, name = _manager(order)
    # What a group defines itself has no file of its own, and so no local data.
    return manager, name, sorted(_leaves(manager.task_index, name) or ())


def _refused(index: Mapping[str, Any], leaves: list[str], order: Order) -> "Refusal | None":
    unsafe = [leaf for leaf in leaves if leaf in index and index[leaf].cfg.get("unsafe_code")]
    return refuse_code(unsafe) if unsafe and not order.unsafe_code else None


def _manager(order: Order) -> tuple[Any, str]:
    """Index as few task files as the task needs."""
    from lm_eval.tasks import TaskManager

    if order.folder:
        manager = TaskManager(include_defaults=False, include_path=order.folder)
        name = order.task or _name_in(manager, order)
        if _leaves(manager.task_index, name) is not None:
            return manager, name
    manager = TaskManager(include_path=order.folder if order.file else None)
    return manager, order.task or _name_in(manager, order)


def _name_in(manager: Any, order: Order) -> str:
    for name, entry in manager.task_index.items():
        if entry.yaml_path is not None and Path(entry.yaml_path).resolve() == Path(order.file):
            return str(name)
    raise no_task(order.file)


def _leaves(index: Mapping[str, Any], name: str) -> set[str] | None:
    """Names of the tasks below a name; None if the index lacks one of them."""
    entry = index.get(name)
    if entry is None:
        return None
    if entry.kind.name == "TAG":
        return set(entry.tags)
    if entry.kind.name != "GROUP":
        return {name}
    return _members(index, entry.cfg.get("task"))


def _members(index: Mapping[str, Any], listed: Any) -> set[str] | None:
    found: set[str] = set()
    for item in [listed] if isinstance(listed, str) else listed or ():
        below: set[str] | None
        if isinstance(item, str):
            below = _leaves(index, item)
        else:
            name = item.get("group") or item.get("task")
            if isinstance(name, str) and name in index:
                below = _leaves(index, name)
            elif "group" in item:
                below = _members(index, item.get("task"))
            else:
                # A task that the group defines itself, or one that this index lacks.
                below = None
        if below is None:
            return None
        found |= below
    return found


def _redirect(index: dict[str, Any], leaves: list[str], order: Order, folder: Path) -> None:
    """Put tasks over local data in the place of those for which there is some.

    A file that includes the stock one keeps its name, version and functions, also in groups.
    """
    from lm_eval.tasks import TaskManager

    written: list[str] = []
    for leaf in leaves:
        entry = index.get(leaf)
        if entry is None or entry.yaml_path is None or entry.kind.name != "TASK":
            continue
        found = _local(leaf, entry.cfg, [Path(each) for each in order.data_dirs], folder)
        if found:
            text = json.dumps({"include": str(entry.yaml_path), "task": leaf, **found})
            (folder / f"{len(written)}.yaml").write_text(text, encoding="utf-8")
            written.append(leaf)
    if written:
        local = TaskManager(include_defaults=False, include_path=str(folder)).task_index
        # Tasks only: the tags of these few would hide those of the rest.
        index.update({leaf: local[leaf] for leaf in written})


def _local(
    task: str, config: Mapping[str, Any], data_dirs: list[Path], folder: Path
) -> dict[str, Any]:
    """Find a task's data in the data folders: settings that replace the task's, or none."""
    source = config.get("dataset_path")
    if not isinstance(source, str) or source in _BUILDERS.values() or not data_dirs:
        return {}
    for stem in _stems(task, source, config.get("dataset_name")):
        file = find_file(stem, data_dirs)
        if file is not None:
            splits = _splits(task, config, file, data_dirs)
            copies = {each: in_its_words(config, each, folder) for each in {*splits.values()}}
            return {
                "dataset_path": _BUILDERS[file.suffix],
                "dataset_name": None,
                "dataset_kwargs": {"data_files": {k: str(copies[v]) for k, v in splits.items()}},
            }
    for data in data_dirs:
        # A copy of the hub's repository, as its name says.
        if "/" in source and (data / source).is_dir():
            return {"dataset_path": str((data / source).resolve())}
    return {}


def _stems(task: str, source: str, config: str | None) -> Iterator[str]:
    """Names that a data file may have: the task's, or the dataset's with its configuration."""
    yield task
    last = source.rpartition("/")[2].lower()
    plain = _FILES.get(source.lower()) or re.sub(r"[^a-z0-9]+", "_", last)
    if config in _DEFAULT_CONFIGS:
        yield plain
    else:
        # A file of the whole dataset would mix its parts.
        yield f"{plain}_{config}"
        if str(config).lower().startswith(plain):
            yield str(config)


def _splits(
    task: str, config: Mapping[str, Any], file: Path, data_dirs: list[Path]
) -> dict[str, Path]:
    """Say which file stands for which split."""
    examples = config.get("fewshot_config") or {}
    measured = config.get("test_split") or config.get("validation_split")
    shown = examples.get("split") or config.get("fewshot_split")
    shown = shown or config.get("training_split") or config.get("validation_split")
    named = ("training_split", "validation_split", "test_split", "fewshot_split")
    splits = {str(config[each]) for each in named if config.get(each)}
    splits |= {str(examples["split"])} if examples.get("split") else set()
    taken = bool(config.get("num_fewshot")) and "samples" not in examples
    files: dict[str, Path] = {}
    for split in sorted(splits):
        own = find_file(f"{file.stem}.{split}", data_dirs)
        if own is None and split != measured and split == shown and taken:
            raise DataError(
                f"{task} shows {config['num_fewshot']} examples of the split '{split}', and"
                f" {file.name} has the split '{measured}' only",
                hint=f"put {file.stem}.{split}{file.suffix} beside it, or take a zero-shot task",
            )
        # A split that is named but never shown has to be there, whatever it holds.
        files[split] = (own or file).resolve()
    return files
