"""What holds for every registered exporter, built in or installed."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.exported_runs import IN_ANSWER, IN_TRACE, exported_run, registry
from tseval.errors import CapabilityMissing, ConfigError
from tseval.roles import Exporter

EXPORTERS = dict(registry().exporters)
# Inspect's own package alone takes seconds to import.
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n == "inspect" else n for n in EXPORTERS]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_run(tmp_path_factory.mktemp("contract") / "run", limit=6)


def exported(name: str, run: Path, out: Path, **flags: Any) -> list[Path]:
    """Export, or skip where the run has nothing for the format, or a library is missing."""
    reason = None
    try:
        return EXPORTERS[name].export(run, out, **flags)
    except (ConfigError, CapabilityMissing) as error:
        reason = error
    assert reason.hint
    # Nothing is left of what could not be made.
    assert not out.exists()
    pytest.skip(reason.message)


def every_file(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def changed(run: Path, copy: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy what a run's folder says about itself, with a change of its manifest."""
    copy.mkdir()
    manifest = json.loads((run / "run.json").read_bytes())
    change(manifest)
    (copy / "run.json").write_bytes(msgspec.json.encode(manifest))
    return copy


@pytest.mark.parametrize("name", EXPORTERS)
def test_it_says_what_it_writes(name: str) -> None:
    exporter: Exporter = EXPORTERS[name]
    assert exporter.name == name
    assert 10 < len(exporter.summary) < 100


@pytest.mark.parametrize("name", NAMES)
def test_the_files_it_names_are_all_that_it_leaves(name: str, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "deep"
    files = exported(name, run, out)
    assert files
    assert set(files) == every_file(out)
    assert all(file.stat().st_size for file in files)


@pytest.mark.parametrize("name", NAMES)
def test_the_run_is_left_as_it_was(name: str, run: Path, tmp_path: Path) -> None:
    def state() -> dict[Path, str]:
        return {path: sha256(path.read_bytes()).hexdigest() for path in every_file(run)}

    before = state()
    exported(name, run, tmp_path / "out")
    assert state() == before


@pytest.mark.parametrize("name", NAMES)
def test_a_second_export_gives_the_same_files_again(name: str, run: Path, tmp_path: Path) -> None:
    first = exported(name, run, tmp_path / "a")
    again = exported(name, run, tmp_path / "b")
    over = exported(name, run, tmp_path / "a")
    names = [file.relative_to(tmp_path / "a") for file in first]
    assert names == [file.relative_to(tmp_path / "b") for file in again]
    assert first == over
    if name != "inspect":  # zip archives hold the time of their making
        for one, other in zip(first, again, strict=True):
            assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_what_holds_no_text_holds_none_of_the_model(name: str, run: Path, tmp_path: Path) -> None:
    if getattr(EXPORTERS[name], "holds_texts", True):
        pytest.skip("holds texts")
    prompts = {row["prompt"] for row in rows(run)}
    assert len(prompts) == 12
    for file in exported(name, run, tmp_path / "out"):
        text = file.read_text(encoding="utf-8")
        assert not [mark for mark in (IN_ANSWER, IN_TRACE, *prompts) if mark in text]


def rows(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for file in (run / "journal").glob("*.jsonl") for line in file.open()]
    return [line["data"] for line in lines if line["kind"] == "row"]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_a_run_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises((ConfigError, CapabilityMissing)) as caught:
        EXPORTERS[name].export(tmp_path / "empty", tmp_path / "out")
    if not isinstance(caught.value, CapabilityMissing):
        assert "no run in" in caught.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_run_without_scores_is_refused(name: str, run: Path, tmp_path: Path) -> None:
    bare = changed(run, tmp_path / "bare", lambda manifest: manifest.update(status="interrupted"))
    with pytest.raises((ConfigError, CapabilityMissing)) as caught:
        EXPORTERS[name].export(bare, tmp_path / "out")
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_cannot_be_made_is_an_os_error(name: str, run: Path, tmp_path: Path) -> None:
    exported(name, run, tmp_path / "fine")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        EXPORTERS[name].export(run, tmp_path / "file" / "out")
