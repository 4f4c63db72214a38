"""A training at work: its folder, and what its trainer is handed."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tseval.errors import ConfigError, JournalError
from tseval.protocol import canonical_json, differing
from tseval.runfolder import versions, write_whole

from .records import RECORD_SCHEMA, Example, Recipe, TrainRecord

if TYPE_CHECKING:
    from tseval.legs import Display
    from tseval.plugins import Registry

# Called after an optimiser step with its number and the adapter's folder; says why to stop, or ''.
Look = Callable[[int, Path], str]


class TrainFolder:
    """The folder of one training.

    ``train.json`` (the record), ``synthesis/`` (a run's folder: the journal of all answers),
    ``data/`` (``train.jsonl``, its card), ``checkpoints/``, ``panel/``, ``adapter/``, ``merged/``.

    Args:
        path: The folder.
        record: What is written down.
    """

    def __init__(self, path: Path, record: TrainRecord) -> None:
        self.path = path
        self.record = record

    @property
    def synthesis(self) -> Path:
        """The run in which answers are drawn and judged."""
        return self.path / "synthesis"

    @property
    def data(self) -> Path:
        """What is trained on."""
        return self.path / "data"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints that a killed fit goes on from, ``checkpoint-STEP`` each."""
        return self.path / "checkpoints"

    @property
    def panel(self) -> Path:
        """Runs of the panel, one a look."""
        return self.path / "panel"

    @property
    def adapter(self) -> Path:
        """The result."""
        return self.path / "adapter"

    @property
    def merged(self) -> Path:
        """Weights with the adapter merged, where asked for."""
        return self.path / "merged"

    @classmethod
    def load(cls, path: Path) -> "TrainFolder":
        """Open the folder of a training; raises ConfigError where there is none."""
        file = path / "train.json"
        try:
            record = msgspec.json.decode(
                file.read_bytes(), type=TrainRecord, dec_hook=lambda kind, value: kind(value)
            )
        except FileNotFoundError:
            raise ConfigError(
                f"{path} holds no training", hint="name the --out of a `tseval train`"
            ) from None
        except (msgspec.DecodeError, OSError) as error:
            raise ConfigError(f"cannot read {file}: {error}") from error
        if record.schema != RECORD_SCHEMA:
            raise ConfigError(f"{file} has schema {record.schema}, this tseval {RECORD_SCHEMA}")
        if record.fitted is not None:
            # Written down as seen from the folder, which may have been moved.
            adapter = path / record.fitted.adapter
            record.fitted = msgspec.structs.replace(record.fitted, adapter=adapter)
        return cls(path, record)

    @classmethod
    def choose(cls, path: Path, recipe: Recipe, *, fresh: bool = False) -> "TrainFolder":
        """Open a folder for a recipe: a new one, or one of the same recipe to go on with.

        Args:
            path: The folder.
            recipe: What is wanted.
            fresh: Start anew, never go on.

        Raises:
            ConfigError: It holds the training of another recipe, a file of prompts or answers is
                not what it was when they were gathered, or it holds something else.
        """
        if (path / "train.json").exists():
            found = cls.load(path)
            if fresh:
                raise ConfigError(
                    f"{path} holds a training already", hint="give --fresh another --out"
                )
            found._require_same(recipe)
            found._compare_files(digests(recipe))
            return found
        if path.is_dir() and any(path.iterdir()):
            raise ConfigError(
                f"{path} is not empty and holds no training", hint="give --out a new folder"
            )
        files = digests(recipe)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make {path}: {error.strerror or error}") from error
        record = TrainRecord(
            recipe=recipe, recipe_hash=recipe.hash, versions=versions(), files=files
        )
        return cls(path, record)

    def _require_same(self, recipe: Recipe) -> None:
        if self.record.recipe.hash == recipe.hash:
            return
        theirs, ours = msgspec.to_builtins(self.record.recipe), msgspec.to_builtins(recipe)
        fields = [name for name in differing(theirs, ours) if "data_dirs" not in name]
        raise ConfigError(
            f"{self.path} holds a training of another recipe (differs in {', '.join(fields)})",
            hint="give another --out, or the flags of that training",
        )

    def require_same_files(self) -> None:
        """Raise ConfigError where a file that the data were gathered from has changed since."""
        self._compare_files(digests(self.record.recipe))

    def _compare_files(self, found: dict[str, str]) -> None:
        """Raise ConfigError where a file has changed since the data were gathered.

        Before that it may: it is read anew. One that is gone, or is read from elsewhere now, cannot
        be compared.
        """
        known = self.record.files
        if self.record.gathered is None:
            self.record.files = found
            return
        changed = [name for name in found if known.get(name, found[name]) != found[name]]
        if changed:
            raise ConfigError(
                f"{self.path} holds a training on other data: {', '.join(changed)} has changed"
                " since",
                hint="put back what was there, or give another --out",
            )

    def save(self) -> None:
        """Write ``train.json``; raises JournalError where it cannot be."""
        plain = msgspec.to_builtins(self.record, enc_hook=self._within)
        write_whole(self.path / "train.json", canonical_json(plain))

    def _within(self, value: object) -> str:
        """Write a path as it is seen from the folder, if it is inside."""
        assert isinstance(value, Path)
        whole, here = value.resolve(), self.path.resolve()
        return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)

    def write_examples(self, examples: Iterable[Example]) -> Path:
        """Write ``data/train.jsonl``; raises JournalError where it cannot be."""
        file = self.data / "train.jsonl"
        temporary = file.with_suffix(".tmp")
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as lines:
                for example in examples:
                    lines.write(msgspec.json.encode(example) + b"\n")
            temporary.replace(file)
        except OSError as error:
            raise JournalError(
                f"cannot write {file}: {error.strerror or error}",
                hint="free space, then run the same command again: it resumes",
            ) from error
        return file

    def read_examples(self) -> tuple[Example, ...]:
        """Read ``data/train.jsonl``; raises ConfigError where it is missing or broken."""
        file = self.data / "train.jsonl"
        try:
            lines = file.read_bytes().splitlines()
            return tuple(msgspec.json.decode(line, type=Example) for line in lines)
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"cannot read {file}: {error}") from error


def digests(recipe: Recipe) -> dict[str, str]:
    """Hash the files that a recipe names, and those that local mirrors have for its names.

    Returns:
        sha256 by the recipe's own name; what is no local file, such as a hub's data set, is not
        there.

    Raises:
        ConfigError: A file cannot be read, or ``-T exclude`` is wrong.
        DataError: A mirror has two files for a name.
    """
    from .prompts import excluded_sources

    names = (*recipe.harmful, *recipe.benign, *recipe.teacher)
    excluded = (source for source, _ in excluded_sources(recipe))
    return file_digests((*names, *excluded), recipe.data_dirs)


def file_digests(names: Iterable[str], data_dirs: Iterable[str] = ()) -> dict[str, str]:
    """Hash files, or what local mirrors have for their names; as :func:`digests`."""
    from tseval.tables import find_file

    from .prompts import is_file

    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        file: Path | None = Path(name).expanduser()
        if not is_file(name):
            file = find_file(name, [Path(folder) for folder in data_dirs])
        if file is None or not file.is_file():
            continue
        try:
            with file.open("rb") as data:
                found[name] = hashlib.file_digest(data, "sha256").hexdigest()
        except OSError as error:
            raise ConfigError(f"cannot read {file}: {error.strerror or error}") from error
    return found


class Job:
    """What a trainer is handed.

    Args:
        folder: Where everything goes.
        registry: Everything that is registered.
        display: Shows progress.
        look: Looks at the model after a step, where a panel is wanted.
        look_steps: Optimiser steps between looks.
        evaluated: Prompts that the panel asks, and their clusters: neither they nor what nearly
            equals one of them may be trained on.
    """

    def __init__(
        self,
        folder: TrainFolder,
        registry: "Registry",
        display: "Display",
        *,
        look: Look | None = None,
        look_steps: int | None = None,
        evaluated: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.registry = registry
        self.display = display
        self.look = look
        self.look_steps = look_steps
        self.evaluated = tuple(evaluated)

    @property
    def recipe(self) -> Recipe:
        """What is wanted."""
        return self.folder.record.recipe
