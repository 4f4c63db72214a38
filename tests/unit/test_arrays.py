"""Hidden states on disk: what is read is what was written, whatever was killed in between."""

import asyncio
import errno
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tseval.arrays import ArrayStore
from tseval.errors import JournalError


def key(number: int) -> str:
    return sha256(str(number).encode()).hexdigest()[:32]


def store(folder: Path, **more: Any) -> ArrayStore:
    return ArrayStore(folder, gather_seconds=more.pop("gather_seconds", 0.01), **more)


def write(arrays: ArrayStore, *values: np.ndarray) -> list[str]:
    async def all_at_once() -> list[str]:
        return await asyncio.gather(*(arrays.write(key(n), v) for n, v in enumerate(values)))

    return asyncio.run(all_at_once())


def test_values_come_back_as_float32_within_half_precision(tmp_path: Path) -> None:
    values = np.linspace(-3, 3, 2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5)
    arrays = store(tmp_path)
    [pointer] = write(arrays, values)
    back = arrays.read(pointer)
    assert back.dtype == np.float32
    assert back.shape == (2, 3, 5)
    np.testing.assert_array_equal(back, values.astype(np.float16).astype(np.float32))


def test_values_beyond_float16_are_kept_as_bfloat16_rounded_to_even(tmp_path: Path) -> None:
    # By hand: bfloat16 has 8 bits of mantissa. 70000 = 0x4788B800: the lower half is more than
    # 0x8000, so it rounds up to 0x4789 = 70144. 1 + 2**-8 = 0x3F808000 is a tie and goes to the
    # even 0x3F80 = 1; 1 + 3 * 2**-8 = 0x3F818000 is a tie too and goes up to 0x3F82 = 1.015625.
    values = np.array([[70000.0, -70000.0, 1 + 2**-8, 1 + 3 * 2**-8, 0.0]], dtype=np.float32)
    arrays = store(tmp_path)
    [pointer] = write(arrays, values)
    np.testing.assert_array_equal(arrays.read(pointer), [[70144.0, -70144.0, 1.0, 1.015625, 0.0]])


def test_bfloat16_agrees_with_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).normal(scale=1e6, size=(4, 7)).astype(np.float32)
    arrays = store(tmp_path)
    [pointer] = write(arrays, values)
    expected = torch.from_numpy(values).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(arrays.read(pointer), expected)


def test_a_value_that_is_not_finite_stays_so_and_spoils_no_other(tmp_path: Path) -> None:
    loud_nan = np.array([0xFFFFFFFF], dtype=np.uint32).view(np.float32)[0]
    values = np.array([1e5, np.nan, np.inf, -np.inf, loud_nan, 2.0], dtype=np.float32)
    arrays = store(tmp_path)
    [pointer] = write(arrays, values)
    back = arrays.read(pointer)
    assert np.isnan(back[[1, 4]]).all()
    np.testing.assert_array_equal(back[[2, 3, 5]], [np.inf, -np.inf, 2.0])
    assert back[0] == pytest.approx(1e5, rel=2**-8)


def test_arrays_that_arrive_together_share_a_shard(tmp_path: Path) -> None:
    arrays = store(tmp_path)
    pointers = write(arrays, *(np.full(3, number, np.float32) for number in range(20)))
    assert len(list(tmp_path.iterdir())) == 1
    for number, pointer in enumerate(pointers):
        np.testing.assert_array_equal(arrays.read(pointer), [number] * 3)


def test_a_full_shard_waits_no_longer(tmp_path: Path) -> None:
    arrays = store(tmp_path, gather_seconds=3600, shard_bytes=2000)

    async def write_all() -> list[str]:
        async with asyncio.timeout(300):
            return await asyncio.gather(
                *(arrays.write(key(n), np.zeros(500, np.float32)) for n in range(6)),
                # The first array alone may fill a shard.
                arrays.write(key(6), np.zeros(5000, np.float32)),
            )

    assert len(set(asyncio.run(write_all()))) == 7


def test_a_shard_of_an_earlier_process_is_never_overwritten(tmp_path: Path) -> None:
    # The kill came when only the second of two arrays had its record; the first is made again,
    # in other company and with other values.
    _, second = write(store(tmp_path), np.full(2, 1.0), np.full(2, 2.0))
    again = store(tmp_path)
    [first] = write(again, np.full(2, 3.0))
    np.testing.assert_array_equal(again.read(second), [2.0, 2.0])
    np.testing.assert_array_equal(again.read(first), [3.0, 3.0])


def test_a_caller_that_is_cancelled_harms_no_other(tmp_path: Path) -> None:
    arrays = store(tmp_path, gather_seconds=0.05)

    async def write_two() -> str:
        first = asyncio.create_task(arrays.write(key(0), np.zeros(2)))
        second = asyncio.create_task(arrays.write(key(1), np.ones(2)))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    np.testing.assert_array_equal(arrays.read(asyncio.run(write_two())), [1.0, 1.0])


def test_a_pointer_is_given_out_only_when_the_shard_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, mode: str = "r", **more: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    arrays = store(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(Path, "open", fail)
        with pytest.raises(JournalError) as refused:
            write(arrays, np.zeros(2))
    assert refused.value.message == (
        f"cannot write {tmp_path / '00000.safetensors'}: No space left on device"
    )
    assert refused.value.hint == "free space, then run the same command again: it resumes"
    assert not list(tmp_path.glob("*.safetensors"))
    [pointer] = write(arrays, np.ones(2))
    np.testing.assert_array_equal(arrays.read(pointer), [1.0, 1.0])


def test_a_missing_or_broken_shard_is_an_error_in_words(tmp_path: Path) -> None:
    arrays = store(tmp_path)
    [pointer] = write(arrays, np.zeros(2))
    shard = tmp_path / pointer.partition("#")[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(JournalError, match="is missing or broken"):
        arrays.read(pointer)
    shard.unlink()
    with pytest.raises(JournalError, match="is missing or broken") as missing:
        arrays.read(pointer)
    assert missing.value.hint == f"put {shard} back, or start another run with --fresh"
    write(arrays, np.zeros(2))
    with pytest.raises(JournalError, match="is missing or broken"):
        arrays.read(f"00001.safetensors#{key(9)}")
