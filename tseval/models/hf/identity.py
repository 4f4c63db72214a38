"""What identifies weights, tokenizer and chat template: hashes and commits, never paths."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .source import Source
from .text import Text

_SUFFIXES = (".safetensors", ".gguf", ".json", ".jinja", ".model", ".txt", ".py", ".tiktoken")
# What training leaves beside a checkpoint and loading never reads.
_IGNORED = {"trainer_state.json", "all_results.json", "train_results.json", "eval_results.json"}
_BLOCK_BYTES = 1 << 22
# A file that was written this recently may be written again within the same clock tick.
_SETTLED_SECONDS = 2.0


def cache_folder() -> Path:
    """Where tseval keeps what it can make again: ``$XDG_CACHE_HOME/tseval``."""
    home = os.environ.get("XDG_CACHE_HOME") or ""
    return (Path(home) if home else Path.home() / ".cache") / "tseval"


def source_identity(source: Source, tell: Callable[[str], None]) -> dict[str, str]:
    """Identify the files of a source: the commit on the hub, or a hash for each file."""
    if source.folder is None:
        pinned = {"model": source.place, "commit": source.commit}
        return {**pinned, "file": source.gguf} if source.gguf else pinned
    if source.gguf:
        return {source.gguf: _file_hash(source.folder / source.gguf, tell)}
    return {path.name: _file_hash(path, tell) for path in _files(source.folder)}


def text_identity(text: Text) -> dict[str, str]:
    """Identify a tokenizer by what it does, and the chat template by its source."""
    fast = getattr(text.tokenizer, "backend_tokenizer", None)
    rules = fast.to_str() if fast is not None else json.dumps(sorted(text.tokenizer.get_vocab()))
    return {"tokenizer": _hash(rules.encode()), "chat_template": _hash(text.template.encode())}


def _files(folder: Path) -> Iterator[Path]:
    """The files of a checkpoint that are loaded, by name."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    safe = any(path.suffix == ".safetensors" for path in paths)
    suffixes = _SUFFIXES if safe else (*_SUFFIXES, ".bin")
    for path in paths:
        training = path.name == "training_args.bin" or path.name in _IGNORED
        if path.suffix in suffixes and not training:
            yield path


def _hash(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _file_hash(path: Path, tell: Callable[[str], None]) -> str:
    """Hash a file, or remember its hash by path, size and time of change."""
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns]
    memory = cache_folder() / "hashes.json"
    known = _load(memory)
    entry = known.get(str(path))
    if entry and entry[:2] == stamp:
        return str(entry[2])
    if status.st_size > 100 * _BLOCK_BYTES:
        tell(f"hashing {path.name}")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    result = f"sha256:{digest.hexdigest()}"
    if time.time() - status.st_mtime > _SETTLED_SECONDS:
        _save(memory, {**known, str(path): [*stamp, result]})
    return result


def _load(memory: Path) -> dict[str, list[Any]]:
    try:
        known: dict[str, list[Any]] = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known


def _save(memory: Path, known: dict[str, list[Any]]) -> None:
    """Write the memory as a whole; a run that cannot write it only hashes again."""
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        draft = memory.with_name(f"{memory.name}.{os.getpid()}")
        draft.write_text(json.dumps(known), encoding="utf-8")
        draft.replace(memory)
    except OSError:
        return
