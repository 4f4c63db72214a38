"""Index files of a journal's full segments: key, kind and offset of each record."""

import contextlib
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

KEY_BYTES = 16
_ENTRY = struct.Struct("<16sBQ")
# What it is, schema of its segment, size of its segment, checksum of its entries.
_HEAD = struct.Struct("<8sHQI")
_MAGIC = b"tsevalix"


def pack_entry(key: bytes, kind: int, offset: int) -> bytes:
    """Pack one record's entry: its key, the number of its kind, its offset in bytes."""
    return _ENTRY.pack(key, kind, offset)


def write_index(path: Path, entries: bytes | bytearray, *, schema: int, size: int) -> None:
    """Write an index; one that cannot be written costs only time.

    Args:
        path: Of the index file.
        entries: Packed, one after the other.
        schema: Of the segment.
        size: Of the segment, in bytes.
    """
    temporary = path.with_suffix(".idx.tmp")
    with contextlib.suppress(OSError):
        temporary.write_bytes(_HEAD.pack(_MAGIC, schema, size, zlib.crc32(entries)) + entries)
        temporary.replace(path)


def read_index(path: Path, *, schema: int, size: int) -> Iterator[tuple[bytes, int, int]] | None:
    """Read an index; None where there is none that fits the segment.

    Args:
        path: Of the index file.
        schema: Of the segment.
        size: Of the segment, in bytes.
    """
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    entries = memoryview(raw)[_HEAD.size :]
    head = _HEAD.pack(_MAGIC, schema, size, zlib.crc32(entries))
    if not raw.startswith(head) or len(entries) % _ENTRY.size:
        return None
    return _ENTRY.iter_unpack(entries)
