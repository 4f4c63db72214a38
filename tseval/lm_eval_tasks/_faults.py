"""In a worker: say what is wrong with a task that lm-eval cannot load, where that can be seen."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tseval.errors import DataError

_NEEDS = "it needs 'task: NAME', and 'group: NAME' if it lists others"


def no_task(file: str) -> DataError:
    """Say why a file defines no task: lm-eval passes over what it cannot read."""
    import yaml

    try:
        # Nodes only: a task's file may name functions, which are not to be imported here.
        node = yaml.compose(Path(file).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return DataError(
            f"{file}{place}: no YAML ({error.problem or 'unreadable'})",
            hint="mend that line; lists and texts with ': ' in them are put in brackets and quotes",
        )
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return DataError(f"{file} is no YAML: {error}", hint="write it as UTF-8 text")
    if node is None:
        return DataError(f"{file} is empty", hint=_NEEDS)
    if not isinstance(node, yaml.MappingNode):
        return DataError(f"{file} holds no fields, but a {node.id}", hint=_NEEDS)
    return DataError(f"{file} defines no task and no group", hint=_NEEDS)


def fault_in(index: Mapping[str, Any], leaves: list[str]) -> DataError | None:
    """Say what is wrong with the data of tasks that could not be loaded; None if it is not that."""
    for leaf in leaves:
        config = index[leaf].cfg if leaf in index else {}
        if "include" not in config and not {"dataset_path", "custom_dataset"} & config.keys():
            return DataError(
                f"task '{leaf}' names no data: it has no dataset_path",
                hint="add 'dataset_path', a dataset of the hub, or 'json' and its 'data_files'",
            )
        for file in _files(config):
            if not file.exists():
                return DataError(
                    f"task '{leaf}': there is no data file {file}",
                    hint="paths in a task's file are taken from where tseval is started",
                )
            if file.is_file() and not file.read_bytes().strip():
                return DataError(
                    f"task '{leaf}': its data file {file} is empty", hint="it needs a row at least"
                )
    return None


def _files(config: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the local files that a task names; patterns and addresses are left out."""
    named = (config.get("dataset_kwargs") or {}).get("data_files")
    listed = named.values() if isinstance(named, Mapping) else [named]
    for each in listed:
        for name in each if isinstance(each, list | tuple) else [each]:
            if isinstance(name, str) and "://" not in name and "*" not in name:
                yield Path(name)
