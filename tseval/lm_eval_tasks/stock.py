"""Where lm-eval keeps a task, found without importing lm-eval and without its full index.

Building the index of all 14,000 task files takes 10 to 25 seconds. A task's folder is mostly named
like the task, so a few files answer for a known name; a scan of all files, about two seconds,
answers for the others and knows the near misses of a typo.
"""

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from tseval.errors import ConfigError, UnknownName
from tseval.tables import SUFFIXES

# First words of the names of stock tasks whose folder has another name.
_ELSEWHERE = {
    "aime24": "aime",
    "aime25": "aime",
    "ai2_arc": "arc",
    "arc_": "arc",
    "hendrycks_math500": "hendrycks_math",
    "minerva_math500": "minerva_math",
    "persona_": "model_written_evals",
    "sycophancy": "model_written_evals",
    "advanced_ai_risk": "model_written_evals",
}
# At the top level of a task file: 'task: name', '"group": name', 'tag: name' or a list of tags.
_NAME = re.compile(rb"^[\"']?(task|group|tag)[\"']?\s*:[ \t]*[\"']?([^\s\"'#\[\]]+)", re.M)
_TAGS = re.compile(
    rb"^[\"']?tag[\"']?\s*:\s*(?:\[([^\]]*)\]|\n((?:[ \t]*-[ \t]*[^\n]+\n?)+))", re.M
)
_INCLUDE = re.compile(rb"^[\"']?include[\"']?\s*:[ \t]*[\"']?([^\s\"'#]+)", re.M)
_UNSAFE = re.compile(rb"^[\"']?unsafe_code[\"']?\s*:[ \t]*[\"']?(?:true|yes|on)\b", re.M | re.I)


class Location(Struct, frozen=True, kw_only=True):
    """Where a task is.

    Attributes:
        task: Name of the task, group or tag; '' where ``file`` has to say it.
        folder: Folder whose task files suffice to load it; None asks for the full index.
        file: The user's own YAML file, or None.
    """

    task: str
    folder: Path | None = None
    file: Path | None = None


def locate(name: str) -> Location:
    """Find a task, group or tag by name, or a YAML file by path.

    Raises:
        ConfigError: lm-eval is not installed, or the file does not exist.
        UnknownName: No such name.
    """
    if name.endswith((".yaml", ".yml")):
        file = Path(name).expanduser()
        if not file.is_file():
            raise ConfigError(
                f"no task file {name}", hint="pass lm-eval/PATH of an existing YAML file"
            )
        return Location(task="", folder=file.resolve().parent, file=file.resolve())
    root = tasks_folder()
    for folder in _likely(root, name):
        if name in _places(folder).folders:
            return Location(task=name, folder=folder)
    # A group may gather what stands in several folders: the worker sees whether all of its members
    # are there, and builds the full index where they are not. A tag always asks for it, since no
    # folder knows who else has the tag.
    places = _places(root)
    known = {*places.folders, *places.tags}
    if name not in known:
        raise UnknownName("lm-eval task", name, known, hint=_hint(name, known))
    return Location(task=name, folder=places.folders.get(name))


def may_run_code(location: Location) -> bool:
    """Say whether a task may be one that runs code which the model wrote.

    True where a task file beside it, or one that these include, says so of any task: the index
    knows of which. False is no promise, since a group may name tasks of other folders.
    """
    if location.file is not None:
        files = [location.file]
    elif location.folder is not None:
        files = list(_task_files(location.folder))
    else:
        tagged = (e.path for e in os.scandir(tasks_folder()) if e.is_dir())
        folders = [Path(each) for each in tagged if location.task in _places(Path(each)).tags]
        files = [file for folder in folders for file in _task_files(folder)]
    seen: set[Path] = set()
    while files:
        file = files.pop()
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        source = file.read_bytes()
        if _UNSAFE.search(source):
            return True
        files.extend(file.parent / match[1].decode() for match in _INCLUDE.finditer(source))
    return False


def own_sources(location: Location) -> list[Path]:
    """Name the files that decide what the user's own task asks and how it scores.

    These are the task files, functions and rows in the folder of its file, and the files that it
    includes from elsewhere, with the functions beside them. Of stock tasks none: lm-eval's version
    says it.
    """
    if location.file is None:
        return []
    home = location.file.parent
    # A run may lie below: its records are no rows.
    found = {each for each in home.iterdir() if each.suffix in (".json", *SUFFIXES)}
    for place, folders, files in os.walk(home):
        folders[:] = [each for each in folders if not each.startswith((".", "__"))]
        tasks = [file for file in files if file.endswith((".yaml", ".yml", "_yaml"))]
        codes = [file for file in files if file.endswith(".py")]
        found.update(Path(place, file) for file in (*tasks, *(codes if tasks else ())))
    included, seen = [location.file], set()
    while included:
        file = included.pop()
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        found.update([file, *file.parent.glob("*.py")])
        source = file.read_bytes()
        included.extend((file.parent / m[1].decode()).resolve() for m in _INCLUDE.finditer(source))
    return sorted(found)


def _task_files(root: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(root):
        folders.sort()
        for file in sorted(files):
            # Files that others include, which may name tags too, end otherwise: '_common_yaml'.
            if "yaml" in file or "." not in file:
                yield Path(place, file)


def tasks_folder() -> Path:
    """Return the folder of lm-eval's task files; raise ConfigError if it is not installed."""
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("lm-eval is not installed", hint="pip install 'lm-eval>=0.4.13,<0.5'")
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"


def _hint(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=3, cutoff=0.6)
    meant = f"did you mean {' or '.join(repr(f'lm-eval/{n}') for n in near)}? " if near else ""
    return f"{meant}see `lm-eval ls tasks`, or pass lm-eval/PATH of a YAML file"


def _likely(root: Path, name: str) -> Iterator[Path]:
    """Name the folders that a task's name points to, the most specific one first."""
    for start, folder in _ELSEWHERE.items():
        if name.startswith(start):
            yield root / folder
    folders = [entry.name for entry in os.scandir(root) if entry.is_dir()]
    near = [folder for folder in folders if name == folder or name.startswith(f"{folder}_")]
    yield from (root / folder for folder in sorted(near, key=len, reverse=True))


class _Places(NamedTuple):
    """What the files below a folder define: tasks and groups with their folders, and tags."""

    folders: dict[str, Path]
    tags: set[str]


@cache
def _places(root: Path) -> _Places:
    found = _Places({}, set())
    for path in _task_files(root):
        _read(path.read_bytes(), path.parent, found)
    return found


def _read(source: bytes, folder: Path, found: _Places) -> None:
    for match in _NAME.finditer(source):
        name = match[2].decode(errors="replace")
        if match[1] == b"tag":
            found.tags.add(name)
        elif name != "-":
            found.folders.setdefault(name, folder)
    for match in _TAGS.finditer(source):
        words = match[1].split(b",") if match[1] is not None else match[2].splitlines()
        for word in words:
            # A list has a dash before each, and either form may have quotes.
            plain = word.strip().lstrip(b"-").partition(b"#")[0].strip().strip(b"\"'")
            found.tags.add(plain.decode(errors="replace"))
