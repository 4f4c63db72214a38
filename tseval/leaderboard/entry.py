"""Runs to entries, and entries to files: what is submitted to a board, without any text."""

import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from tseval.errors import ConfigError, TsevalError
from tseval.outcomes import OutcomeBook
from tseval.protocol import canonical_json
from tseval.runfolder import Manifest, RunFolder, Scorecard
from tseval.spec import RunSpec
from tseval.types import Score

from .cells import numbers_of
from .records import ENTRY_SCHEMA, Board, Entry

MOST_LABEL = 120
MOST_NOTE = 1000
# Characters that act on a terminal or a page instead of being shown on it.
ACTING = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_WHOLE = ("run.json", "scores.json", "outcomes.json", "measurements.json")
_PARTS = ("journal/*.jsonl", "arrays/*.safetensors")
_BLOCK_BYTES = 1 << 20


def submit(
    run: Path,
    board: Board | None = None,
    *,
    label: str = "",
    note: str = "",
    demonstration: bool = False,
) -> Entry:
    """Make an entry of a run.

    Args:
        run: Its folder.
        board: What it is meant for; None: any.
        label: What tables call it; '' is the model's name, with what it was measured under.
        note: What its author has to say.
        demonstration: Mark it as made to show the board at work.

    Raises:
        ConfigError: It is no run, or not complete, or has no score (for this board), or lacks the
            outcomes of its rows; or label or note cannot be shown.
    """
    folder = RunFolder.load(run)
    manifest = folder.manifest
    if manifest.status != "complete":
        raise ConfigError(
            f"{run} is not complete (status: {manifest.status}): no entry can be made of it",
            hint="run the same `tseval run` command again: it resumes",
        )
    scorecard = folder.scorecard()
    scores = tuple(s for s in scorecard.scores if not s.member and s.group != "average")
    if not any(score.estimate for score in scores):
        raise ConfigError(
            f"{run} has no score with a value: there is nothing to enter",
            hint="tseval show RUN says why each is undefined",
        )
    entry = signed(
        Entry(
            **_subject_fields(manifest, scorecard),
            label=label.strip() or _label(scorecard, manifest.spec),
            note=note.strip(),
            demonstration=demonstration,
            tseval_version=manifest.versions.get("tseval", ""),
            commit=commit_here(),
            date=_ended(manifest),
            scores=scores,
            protocols=_protocols(scorecard, scores),
            outcomes=OutcomeBook().packed(scores, folder.outcomes()),
            files=dict(hashed_files(run)),
        )
    )
    for fault in label_faults(entry):
        raise ConfigError(fault, hint="give --label and --note other words")
    if board is not None and not numbers_of(board, entry).scores:
        wanted = dict.fromkeys(column.benchmark for column in board.columns if column.benchmark)
        raise ConfigError(
            f"{run} has no number of the board {board.name!r}",
            hint=f"its benchmarks: {', '.join(wanted)}",
        )
    return entry


def _subject_fields(manifest: Manifest, scorecard: Scorecard) -> dict[str, Any]:
    """Say what was measured; without the place that it was loaded from."""
    spec, subject = manifest.spec, scorecard.subject
    # Where a server stands says nothing about what it serves, and may be nobody's business.
    identity = {name: each for name, each in subject.identity.items() if name != "server"}
    # On a server 'llama3:8b' is a name: only what has files of an adapter has one.
    adapted = any(name.startswith("adapter/") for name in identity)
    base, _, adapter = subject.name.rpartition(":")
    if not spec.model.adapter:
        # A LoRA folder in the place of a model names its base itself.
        base, adapter = identity.get("base/model", ""), subject.name
    legs = [leg.execution for leg in manifest.legs if leg.execution]
    versions = {k: v for k, v in manifest.versions.items() if k not in ("tseval", "platform")}
    return {
        "model": base if adapted and base else subject.name,
        "adapter": adapter if adapted else "",
        "revision": identity.get("commit") or identity.get("base/commit") or spec.model.revision,
        "identity": identity,
        "verified": subject.verified,
        "intervention": spec.intervention,
        "system_prompt_hash": scorecard.system_prompt_hash,
        "preset": scorecard.preset,
        "seed": scorecard.seed,
        "execution": {
            name: each
            for name, each in {**versions, **(legs[-1] if legs else {})}.items()
            if "://" not in each and not each.startswith("/")
        },
    }


def _ended(manifest: Manifest) -> str:
    """Give the day on which a run's last leg ended, in UTC; '' of a run without legs."""
    if not manifest.legs:
        return ""
    last = manifest.legs[-1]
    ended = datetime.fromisoformat(last.started) + timedelta(seconds=last.seconds)
    return (ended.astimezone(UTC) if ended.tzinfo else ended).date().isoformat()


def _label(scorecard: Scorecard, spec: RunSpec) -> str:
    under = [spec.intervention] if spec.intervention else []
    if scorecard.system_prompt_hash:
        under.append(f"system prompt {scorecard.system_prompt_hash[:6]}")
    named = " under ".join(filter(None, (scorecard.subject.name, " and ".join(under))))
    return ACTING.sub("\ufffd", named)[:MOST_LABEL]


def _protocols(scorecard: Scorecard, scores: tuple[Score, ...]) -> dict[str, dict[str, Any]]:
    used = {score.fingerprint for score in scores}
    return {name: each for name, each in scorecard.protocols.items() if name in used}


def hashed_files(run: Path) -> Iterator[tuple[str, str]]:
    """Yield the files that a run's numbers were made of, by path in its folder, and their SHA-256.

    Raises:
        TsevalError: One cannot be read.
    """
    found = [run / name for name in _WHOLE if (run / name).is_file()]
    found += [path for pattern in _PARTS for path in sorted(run.glob(pattern))]
    for path in found:
        digest = sha256()
        try:
            with path.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    digest.update(block)
        except OSError as error:
            raise TsevalError(f"cannot read {path}: {error.strerror or error}") from error
        yield path.relative_to(run).as_posix(), digest.hexdigest()


def commit_here() -> str:
    """Name the commit of the checkout that tseval runs from; '' where it runs from none."""
    package = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(package), "describe", "--always", "--abbrev=12", "--dirty"]
    try:
        # Installed into a folder below somebody else's checkout, it is no part of that.
        tracked = _git("git", "-C", str(package), "ls-files", "--error-unmatch", "__init__.py")
        return _git(*command, "--exclude", "*") if tracked else ""
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def label_faults(entry: Entry) -> Iterator[str]:
    """Say what of an entry's label and note cannot be shown."""
    if not entry.label.strip():
        yield "the label is empty"
    for name, most in (("label", MOST_LABEL), ("note", MOST_NOTE)):
        text: str = getattr(entry, name)
        if len(text) > most:
            yield f"the {name} has {len(text)} characters, at most {most} are shown"
        if ACTING.search(text):
            yield f"the {name} holds control or direction characters"


# -- files


def digest_of(fields: dict[str, Any]) -> str:
    """Hash an entry's fields as they stand in its file, but for the digest itself."""
    rest = {name: value for name, value in fields.items() if name != "digest"}
    return sha256(canonical_json(rest)).hexdigest()


def signed(entry: Entry) -> Entry:
    """Return the entry with the digest of its other fields."""
    return msgspec.structs.replace(entry, digest=digest_of(msgspec.to_builtins(entry)))


def entry_bytes(entry: Entry) -> bytes:
    """Write an entry as JSON, sorted, with one number or protocol on each line."""
    fields = msgspec.to_builtins(entry)
    parts = [f"{_json(name)}: {_listed(fields[name])}" for name in sorted(fields)]
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def _listed(value: Any) -> str:
    if isinstance(value, dict) and value:
        inside = [f" {_json(key)}: {_json(value[key])}" for key in sorted(value)]
        return "{\n" + ",\n".join(inside) + "\n}"
    if isinstance(value, list | tuple) and value:
        return "[\n" + ",\n".join(f" {_json(each)}" for each in value) + "\n]"
    return _json(value)


def _json(value: Any) -> str:
    return canonical_json(value).decode()


def read_entry(file: Path) -> Entry:
    """Read an entry; what it says is not checked (see ``check``).

    Raises:
        ConfigError: The file cannot be read, or holds none.
    """
    try:
        return decode(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror or error}") from error
    except ConfigError as error:
        raise ConfigError(f"{file}: {error.message}", hint=error.hint) from error


def decode(data: bytes) -> Entry:
    """Decode an entry.

    Raises:
        ConfigError: It is none, or of a newer tseval.
    """
    try:
        entry = msgspec.json.decode(data, type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"this is no entry: {error}", hint="`tseval leaderboard submit RUN` makes one"
        ) from error
    if entry.schema > ENTRY_SCHEMA:
        raise ConfigError(
            f"the entry has schema {entry.schema}, this tseval reads {ENTRY_SCHEMA}",
            hint="upgrade tseval",
        )
    return entry
