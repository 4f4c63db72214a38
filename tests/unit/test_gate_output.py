"""What ``compare`` and ``gate`` leave where a disk is full or a reader goes away."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_compare_cli import POLICY, REFUSAL, made
from tests.unit.test_runner import always
from tseval.cli.gate import _write
from tseval.errors import ConfigError
from tseval.testing import mixed

FULL = Path("/dev/full")
TSEVAL = (sys.executable, "-c", "from tseval.cli.app import main; main()")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    made(root / "mixed", mixed, "mixed")
    made(root / "again", mixed, "mixed")
    made(root / "refuses", always(REFUSAL), "refuses")
    (root / "gate.toml").write_text(POLICY)
    return root


def arguments(command: str, after: str) -> list[str]:
    if command == "compare":
        return ["compare", "mixed", after]
    return ["gate", "--baseline", "mixed", "--candidate", after, "--policy", "gate.toml"]


def closed_pipe() -> int:
    """A pipe's end that nobody reads from."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("form", [[], ["--json"], ["--markdown"]])
@pytest.mark.parametrize(
    ("command", "after", "code"),
    [("gate", "again", 0), ("gate", "refuses", 3), ("compare", "refuses", 0)],
)
def test_a_reader_that_goes_away_changes_no_decision(
    folder: Path, command: str, after: str, code: int, form: list[str]
) -> None:
    pipe = closed_pipe()
    try:
        done = subprocess.run(
            [*TSEVAL, *arguments(command, after), *form],
            cwd=folder, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    finally:
        os.close(pipe)
    assert done.returncode == code, done.stderr
    assert done.stderr == ""


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize("command", ["gate", "compare"])
def test_a_decision_that_cannot_be_printed_is_an_error(
    folder: Path, command: str, form: list[str]
) -> None:
    with FULL.open("wb") as full:
        done = subprocess.run(
            [*TSEVAL, *arguments(command, "again"), *form],
            cwd=folder, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "error: cannot write the output: No space left on device\n"
        "hint: free space, then run the same command again\n"
    )


def test_a_file_that_cannot_be_finished_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    junit = tmp_path / "gate.xml"
    _write(junit, b"yesterday's")

    def half(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", half)
        with pytest.raises(ConfigError, match="No space left on device"):
            _write(junit, b"today's, which is longer")
    assert junit.read_bytes() == b"yesterday's"
    assert list(tmp_path.iterdir()) == [junit]
    _write(junit, b"today's")
    assert junit.read_bytes() == b"today's"


def killed(script: str) -> None:
    """Run a script that ends itself by SIGKILL."""
    head = "import io, os, signal; from pathlib import Path; from tseval.cli.gate import _write\n"
    done = subprocess.run([sys.executable, "-c", head + script], check=False)
    assert done.returncode == -9


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_a_file_whose_writer_is_killed_stays_as_it_was(tmp_path: Path) -> None:
    junit = tmp_path / "gate.xml"
    junit.write_bytes(b"yesterday's")
    killed(f"""
def half(path, data):
    path.open("wb", buffering=0).write(data[:4])
    os.kill(os.getpid(), signal.SIGKILL)
Path.write_bytes = half
_write(Path({str(junit)!r}), b"today's, which is longer")
""")
    assert junit.read_bytes() == b"yesterday's"
    (left,) = [file for file in tmp_path.iterdir() if file != junit]
    assert left.name.startswith("gate.xml.")
    assert left.suffix == ".tmp"


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_a_summary_is_whole_as_soon_as_its_one_write_is_done(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_bytes(b"before\n")
    # Killed behind the first call, wherever the text is long: no second one, nothing in a buffer.
    killed(f"""
class Once(io.FileIO):
    def write(self, data):
        super().write(data)
        os.kill(os.getpid(), signal.SIGKILL)
Path.open = lambda path, mode, buffering: Once(path, mode.replace("b", ""))
_write(Path({str(summary)!r}), b"decided\\n" * 10_000, append=True)
""")
    assert summary.read_bytes() == b"before\n" + b"decided\n" * 10_000


def test_a_summary_that_others_write_into_keeps_their_part(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    summary = tmp_path / "summary.md"
    summary.write_bytes(b"before\n")
    _write(summary, b"decided\n", append=True)
    assert summary.read_bytes() == b"before\ndecided\n"
    # A limit on the size of files stands in for a full disk: half of what is written fits.
    script = (
        "import resource, signal; from pathlib import Path; from tseval.cli.gate import _write;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (100, {resource.RLIM_INFINITY}));"
        f"_write(Path({str(summary)!r}), b'x' * 1000, append=True)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert b"cannot write" in done.stderr
    assert summary.read_bytes() == b"before\ndecided\n"
