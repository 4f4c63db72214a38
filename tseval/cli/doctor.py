"""``tseval doctor``: what this machine can run, and what is missing."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import typer

from tseval.cli.common import errors, given_values, option, words
from tseval.cli.output import print_json, print_rows

_EXTRAS = {"peft": "train", "trl": "train", "vllm": "vllm", "inspect_ai": "inspect"}


class Finding(NamedTuple):
    """One line of the report: 'ok', 'note' or 'problem'."""

    what: str
    state: str
    detail: str


def command(
    context: typer.Context,
    data_dir: list[str] = option("--data-dir", default=[], help="Local mirrors to look into."),
    json: bool = option("--json", default=False, help="Print findings as JSON."),
    debug: bool = option("--debug", default=False, help="Show tracebacks."),
) -> None:
    """Look at this machine: libraries, devices, precision, disk, plugins, data, credentials.

    Exit code 1 if something that every run needs is missing.
    """
    with errors(debug=debug):
        checks: list[Callable[[], list[Finding]]] = [
            _versions,
            _device,
            _disk,
            _plugins,
            _credentials,
            lambda: _data(words(given_values(context)["data_dir"])),
        ]
        findings = [finding for check in checks for finding in check()]
        if json:
            print_json([finding._asdict() for finding in findings])
        else:
            print_rows(("what", "state", "detail"), findings)
    raise SystemExit(1 if any(f.state == "problem" for f in findings) else 0)


def _versions() -> list[Finding]:
    from tseval.runfolder import versions

    found = [Finding(name, "ok", number) for name, number in versions().items()]
    for package, extra in _EXTRAS.items():
        if find_spec(package) is None:
            found.append(Finding(package, "note", f"not installed: pip install 'tseval[{extra}]'"))
    return found


def _device() -> list[Finding]:
    try:
        import torch
    except ImportError as error:
        return [Finding("torch", "problem", f"cannot be imported: {error}")]
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    found = [Finding("cpu", "ok", f"{cores}; bf16 {'in hardware' if fast else 'not in hardware'}")]
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        memory = properties.total_memory / 2**30
        found.append(Finding(f"cuda:{number}", "ok", f"{properties.name}, {memory:.0f} GiB"))
    return found


def _disk() -> list[Finding]:
    import shutil

    free = shutil.disk_usage(Path.cwd()).free / 2**30
    state = "ok" if free > 2 else "problem" if free < 0.2 else "note"
    return [Finding("disk", state, f"{free:.1f} GiB free here")]


def _plugins() -> list[Finding]:
    from tseval.plugins import load_registry

    plugins = load_registry()
    kinds = ("benchmarks", "judges", "backends", "trainers")
    counts = ", ".join(f"{len(getattr(plugins, kind))} {kind}" for kind in kinds)
    found = [Finding("plugins", "ok", counts)]
    found.extend(
        Finding(f"plugin {o.plugin}", "ok", f"{o.distribution} {o.version}")
        for o in plugins.origins()
    )
    return found


def _credentials() -> list[Finding]:
    # Only whether they are set: a value is never printed.
    names = ("HF_TOKEN", "OPENAI_API_KEY")
    found = [
        Finding(
            name,
            "ok" if os.environ.get(name) else "note",
            "set" if os.environ.get(name) else "not set",
        )
        for name in names
    ]
    if os.environ.get("HF_HUB_OFFLINE"):
        found.append(Finding("HF_HUB_OFFLINE", "note", "set: the hub is not asked for anything"))
    return found


def _data(folders: list[str]) -> list[Finding]:
    if not folders:
        return []
    from tseval.errors import TsevalError
    from tseval.plugins import load_registry
    from tseval.tables import find_file

    found = []
    for name in load_registry().benchmarks:
        try:
            path = find_file(name, [Path(folder) for folder in folders])
        except TsevalError as error:
            found.append(Finding(f"data {name}", "problem", error.message))
            continue
        if path is not None:
            found.append(Finding(f"data {name}", "ok", str(path)))
    return found
