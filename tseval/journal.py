"""The append-only record behind a session, and its recovery after a crash.

A journal is a folder of segments (``00000.jsonl`` ...) of JSON lines, one record a line. Each line
is ``{"v": 1, "kind": ..., "key": ..., "at": ..., "data": {...}}``. The key is the content key of
the call that the record answers: finding it is what makes resuming, re-judging and sharing work.

* Every record is handed to the operating system as it is appended (a killed process loses none)
  and forced to disk about once a second (a power cut loses that second).
* A torn last line is cut off when the journal is opened, and at once where a full disk tore it.
  An unreadable line elsewhere is skipped and counted; what it held is made again.
* One process writes at a time (a lock file); readers need no lock.
* ``errors`` never satisfy a look-up; a later success replaces them.
* Memory: about 200 bytes a record (key and place). Texts stay on disk. Sealed segments have an
  index file beside them, which is rebuilt where it is missing or does not fit.
"""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, Self, get_args

import msgspec
from msgspec import Struct

from .errors import JournalError
from .journal_index import KEY_BYTES, pack_entry, read_index, write_index

SCHEMA = 1
SEGMENT_BYTES = 256 * 2**20
SYNC_SECONDS = 1.0
_SEGMENT_SHIFT = 40  # place = segment << 40 | byte offset

# Index files name a kind by its place here: add at the end.
Kind = Literal[
    "generation",
    "extension",
    "loglikelihood",
    "hidden",
    "verdict",
    "row",
    "error",
    "choice",
    "check",
    "stance",
]
_KINDS: tuple[Kind, ...] = get_args(Kind)


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the journal.

    Attributes:
        kind: What the record answers. 'row' ties a benchmark's sample to its rollouts and
            verdicts, so that a run can be read back without its benchmark's data.
        key: Content key, 32 hex digits.
        data: The answer as JSON.
        v: Schema version.
        at: Seconds since the epoch when it was appended; never part of a result.
    """

    kind: Kind
    key: str
    data: msgspec.Raw
    v: int = 0
    at: float = 0.0


class _Version(Struct):
    """The one field that every schema has."""

    v: int = 0


_decoder = msgspec.json.Decoder(Record)
_version_decoder = msgspec.json.Decoder(_Version)
_encoder = msgspec.json.Encoder()


class Journal:
    """Append and look up records. Open it with :meth:`open`; use one per run folder.

    Attributes:
        folder: The journal's folder, inside the run's.
        counts: Records by kind; errors are not among them (see :meth:`errors`).
        repaired: What was wrong: 'torn' lines cut off, 'unreadable' lines skipped, 'repeated'
            records of one key (the first counts).
    """

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = self._folder = folder
        self._segment_bytes = segment_bytes
        self._places: dict[bytes, int] = {}
        self._rows: list[int] = []
        self._errors: dict[bytes, int] = {}
        self._readers: dict[int, IO[bytes]] = {}
        self._writer: IO[bytes] | None = None
        self._segment = 0
        self._size = 0
        self._unsynced = False
        self._synced = 0.0
        self._lock: Any = None
        self.counts: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()

    @classmethod
    def open(cls, folder: Path, *, write: bool = True, segment_bytes: int = SEGMENT_BYTES) -> Self:
        """Open a journal, repairing what a crash left.

        Args:
            folder: The journal's folder; made if missing (and ``write``).
            write: Whether records will be appended. Readers need no lock and repair nothing.
            segment_bytes: Size at which a new segment is begun.

        Raises:
            JournalError: Another process writes to it, or it is of a newer schema.
        """
        journal = cls(folder, segment_bytes=segment_bytes)
        if write:
            journal._take_lock()
        elif not folder.is_dir():
            raise JournalError(f"no journal in {folder}", hint="pass the folder of a run")
        try:
            segments = journal._segments()
            for number in segments:
                journal._load(number, last=number == segments[-1], write=write)
        except OSError as error:
            journal.close()
            raise _disk_error(error, folder, "read") from error
        except BaseException:
            journal.close()
            raise
        return journal

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._places

    def __len__(self) -> int:
        return len(self._places)

    def find(self, key: str) -> bytes | None:
        """Return the data of the record with this key, or None; errors are never found."""
        raw = bytes.fromhex(key)
        place = self._places.get(raw)
        if place is None:
            return None
        record = self._read(place)
        if record is None or record.key != key:
            # Broken since it was indexed: as good as never written, so it is made again.
            self.repaired["unreadable"] += 1
            del self._places[raw]
            return None
        return bytes(record.data)

    def rows(self, first: int | None = None) -> Iterator[Record]:
        """Yield the 'row' records, or so many of them, in the order in which they were appended."""
        yield from filter(None, map(self._read, islice(self._rows, first)))

    def errors(self) -> Iterator[Record]:
        """Yield the errors that no success has replaced."""
        yield from filter(None, map(self._read, list(self._errors.values())))

    def append(self, kind: Kind, key: str, data: Any) -> None:
        """Append a record and hand it to the operating system.

        A key that is there already is kept as it is: the first record of a key is the one that
        counts, and appending another is a no-op.

        Raises:
            JournalError: The disk is full or fails; nothing appended before is lost.
        """
        raw = bytes.fromhex(key)
        if raw in self._places:
            return
        if self._lock is None:
            raise JournalError(f"{self._folder} is not open for writing")
        packed, at = msgspec.Raw(_encoder.encode(data)), round(time.time(), 3)
        line = _encoder.encode(Record(kind=kind, key=key, data=packed, v=SCHEMA, at=at))
        try:
            offset = self._write(line + b"\n")
        except OSError as error:
            raise _disk_error(error, self._folder, "write to") from error
        self._note(kind, raw, self._segment << _SEGMENT_SHIFT | offset)
        self.sync()

    def sync(self) -> None:
        """Force what was appended to disk, if a second has passed since the last time.

        Appending does this too; whoever may pause between records calls it about once a second.

        Raises:
            JournalError: The disk fails.
        """
        if self._unsynced and time.monotonic() - self._synced >= SYNC_SECONDS:
            self._force()

    def close(self) -> None:
        """Force everything to disk, and let go of the files and the lock.

        Raises:
            JournalError: The disk fails; the files and the lock are let go of all the same.
        """
        files = [*self._readers.values(), *filter(None, [self._writer])]
        try:
            self._force()
        finally:
            self._readers, self._writer = {}, None
            for file in files:
                file.close()
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    # -- writing

    def _write(self, line: bytes) -> int:
        """Write one line whole or not at all; returns its offset."""
        if self._writer is None or self._size >= self._segment_bytes:
            self._open_writer()
        writer = self._writer
        assert writer is not None
        rest = memoryview(line)
        try:
            # One system call takes it all, except on a disk that is nearly full.
            while rest:
                rest = rest[writer.write(rest) :]
        except OSError:
            # The next append opens the file anew, and cuts it off if that failed here.
            self._writer = None
            with writer, contextlib.suppress(OSError):
                writer.truncate(self._size)
                os.fsync(writer.fileno())
            raise
        offset, self._size = self._size, self._size + len(line)
        self._unsynced = True
        return offset

    def _open_writer(self) -> None:
        if self._size >= self._segment_bytes:
            if self._writer is not None:
                self._force()
                self._writer.close()
                self._writer = None
            self._seal(self._segment)
            self._segment += 1
            self._size = 0
        # Unbuffered: what was appended is the system's, whatever becomes of this process.
        writer = self._path(self._segment).open("ab", buffering=0)
        if writer.tell() != self._size:
            writer.truncate(self._size)
        self._writer = writer
        _sync_folder(self._folder)
        self._synced = time.monotonic()

    def _force(self) -> None:
        try:
            if self._writer is not None:
                os.fsync(self._writer.fileno())
        except OSError as error:
            raise _disk_error(error, self._folder, "write to") from error
        self._unsynced = False
        self._synced = time.monotonic()

    def _take_lock(self) -> None:
        import filelock

        lock = filelock.FileLock(self._folder / "lock")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise JournalError(
                f"another process is writing to {self._folder.parent}",
                hint="wait for it to end, or start another run with --fresh",
            ) from None
        except (OSError, NotImplementedError) as error:
            raise _disk_error(error, self._folder, "write to") from error
        self._lock = lock

    # -- reading

    def _segments(self) -> list[int]:
        return sorted(int(path.stem) for path in self._folder.glob("[0-9]*.jsonl"))

    def _path(self, segment: int, suffix: str = ".jsonl") -> Path:
        return self._folder / f"{segment:05d}{suffix}"

    def _read(self, place: int) -> Record | None:
        """Read the record at a place; None if there is no record there any more."""
        segment, offset = place >> _SEGMENT_SHIFT, place & ((1 << _SEGMENT_SHIFT) - 1)
        try:
            reader = self._readers.get(segment)
            if reader is None:
                reader = self._readers[segment] = self._path(segment).open("rb")
            reader.seek(offset)
            return _decoder.decode(reader.readline())
        except OSError as error:
            raise _disk_error(error, self._folder, "read") from error
        except (msgspec.DecodeError, ValueError):
            return None

    def _note(self, kind: str, key: bytes, place: int) -> None:
        if kind == "error":
            if key not in self._places:
                self._errors[key] = place
            return
        if key in self._places:
            self.repaired["repeated"] += 1
            return
        self._places[key] = place
        self._errors.pop(key, None)
        self.counts[kind] += 1
        if kind == "row":
            self._rows.append(place)

    def _load(self, segment: int, *, last: bool, write: bool) -> None:
        path = self._path(segment)
        if not last and self._load_index(segment):
            return
        with path.open("rb") as lines:
            offset = 0
            for line in lines:
                if not line.endswith(b"\n"):
                    self.repaired["torn"] += 1
                    break
                self._load_line(line, segment << _SEGMENT_SHIFT | offset, path)
                offset += len(line)
        if not write:
            return
        if last:
            self._segment, self._size = segment, offset
            if offset < path.stat().st_size:
                os.truncate(path, offset)
        else:
            self._seal(segment)

    def _load_line(self, line: bytes, place: int, path: Path) -> None:
        try:
            record = _decoder.decode(line)
            key, version = bytes.fromhex(record.key), record.v
        except (msgspec.DecodeError, ValueError):
            key, version = b"", 0
            with contextlib.suppress(msgspec.DecodeError, ValueError):
                # A later schema may have kinds and fields of its own: that is no damage.
                version = _version_decoder.decode(line).v
        if version > SCHEMA:
            raise JournalError(
                f"{path} has schema {version}, this tseval reads up to {SCHEMA}",
                hint="upgrade tseval, or start another run with --fresh",
            )
        if len(key) != KEY_BYTES:
            self.repaired["unreadable"] += 1
            return
        self._note(record.kind, key, place)

    def _seal(self, segment: int) -> None:
        """Write the index of a full segment; losing it costs only time."""
        entries = bytearray()
        with self._path(segment).open("rb") as lines:
            offset = 0
            for line in lines:
                with contextlib.suppress(msgspec.DecodeError, ValueError):
                    record = _decoder.decode(line)
                    key = bytes.fromhex(record.key)
                    if len(key) == KEY_BYTES:
                        entries += pack_entry(key, _KINDS.index(record.kind), offset)
                offset += len(line)
        write_index(self._path(segment, ".idx"), entries, schema=SCHEMA, size=offset)

    def _load_index(self, segment: int) -> bool:
        """Take a segment's records from its index; False if it has none that fits."""
        size = self._path(segment).stat().st_size
        entries = read_index(self._path(segment, ".idx"), schema=SCHEMA, size=size)
        if entries is None:
            return False
        for key, kind, offset in entries:
            self._note(_KINDS[kind], key, segment << _SEGMENT_SHIFT | offset)
        return True


def _sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, where the system can: a new file is lost without."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _disk_error(error: Exception, folder: Path, what: str) -> JournalError:
    reason = error.strerror if isinstance(error, OSError) else None
    return JournalError(
        f"cannot {what} {folder}: {reason or error}",
        hint="free space or mend permissions, then run the same command again: it resumes",
    )
