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

from msgspec import Struct

from tseval.errors import ConfigError, UnknownName

# First words of the names of stock tasks whose folder has another name.
_ELSEWHERE = {
    "aime24": "aime",
    "aime25": "aime",
    "ai2_arc": "arc",
    "arc_": "arc",
    "bbq": "bbq",
    "drop": "drop",
    "gsm8k_platinum": "gsm8k_platinum",
    "gsm_plus": "gsm_plus",
    "hendrycks_math500": "hendrycks_math",
    "minerva_math500": "minerva_math",
    "openbookqa": "openbookqa",
    "persona_": "model_written_evals",
    "sycophancy": "model_written_evals",
    "advanced_ai_risk": "model_written_evals",
    "winogender": "winogender",
}
# A name at the top level of a task file: 'task: name', '"group": name', quoted or not.
_NAME = re.compile(rb"^[\"']?(?:task|group|tag)[\"']?\s*:[ \t]*[\"']?([^\s\"'#\[\]]+)", re.M)
_TAGS = re.compile(rb"^[\"']?tag[\"']?\s*:\s*\n((?:[ \t]*-[ \t]*[^\n]+\n?)+)", re.M)


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
        if name in _places(folder):
            return Location(task=name, folder=folder)
    # A group or a tag may gather what stands in several folders: the worker checks that all of its
    # members are there, and builds the full index where they are not.
    places = _places(root)
    if name not in places:
        raise UnknownName("lm-eval task", name, places, hint=_hint(name, places))
    return Location(task=name, folder=places[name])


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


@cache
def _places(folder: Path) -> dict[str, Path]:
    """Read the names that a folder's files define, each with the folder of its file."""
    found: dict[str, Path] = {}
    for place, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            if file.endswith(".yaml"):
                path = Path(place, file)
                for name in _defined(path.read_bytes()):
                    found.setdefault(name, path.parent)
    return found


def _defined(source: bytes) -> Iterator[str]:
    for match in _NAME.finditer(source):
        if match[1] != b"-":
            yield match[1].decode(errors="replace")
    for match in _TAGS.finditer(source):
        for line in match[1].splitlines():
            yield line.strip().lstrip(b"-").strip().strip(b"\"'").decode(errors="replace")
