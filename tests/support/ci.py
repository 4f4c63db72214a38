"""Run the shell steps of continuous integration as their machines do."""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# How GitHub runs a step whose shell is 'bash', and GitLab a job's script.
BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail")
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")


class Ran(NamedTuple):
    """What came of a step.

    Attributes:
        code: Its exit code.
        output: What it printed.
        outputs: What it wrote into $GITHUB_OUTPUT.
        summary: What it wrote into $GITHUB_STEP_SUMMARY.
        path: What it wrote into $GITHUB_PATH.
    """

    code: int
    output: str
    outputs: dict[str, str]
    summary: str
    path: list[str]


def command(folder: Path, name: str, body: str) -> None:
    """Put a command on a path's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/bash\n{body}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def real_tseval(folder: Path) -> None:
    """Put tseval itself there, under this interpreter."""
    program = "from tseval.cli.app import main; main()"
    command(folder, "tseval", f'exec "{sys.executable}" -c "{program}" "$@"')


def recorder(folder: Path, name: str, log: Path, *, code: int = 0) -> None:
    """Put a command there that notes its arguments, one a line, a blank line behind them."""
    body = f'for each in "$@"; do printf "%s\\n" "$each"; done >> "{log}"; echo >> "{log}"'
    command(folder, name, f"{body}\nexit {code}")


def calls(log: Path) -> list[list[str]]:
    """Read what a recorder noted."""
    return [part.split("\n") for part in log.read_text().split("\n\n") if part]


def filled(text: str, values: Mapping[str, str]) -> str:
    """Put values in for the expressions of a workflow; one that is not known is an error."""
    return _EXPRESSION.sub(lambda found: values[found[1]], text)


def run_step(
    step: Mapping[str, object], values: Mapping[str, str], folder: Path, path: Sequence[Path] = ()
) -> Ran:
    """Run a step of a composite action.

    Args:
        step: As the YAML has it.
        values: Of the expressions in its environment.
        folder: Work is done in there; runner.temp has to be one of the values.
        path: Folders of commands that stand before all others.
    """
    files = {
        name: folder / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_PATH")
    }
    for file in files.values():
        file.write_text("")
    own = step.get("env", {})
    assert isinstance(own, dict)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([*map(str, path), os.environ["PATH"]]),
        "RUNNER_TEMP": values["runner.temp"],
        **{name: str(file) for name, file in files.items()},
        **{name: filled(value, values) for name, value in own.items()},
    }
    if "github.action_path" in values:
        environment["GITHUB_ACTION_PATH"] = values["github.action_path"]
    done = subprocess.run(
        [*BASH, "-c", str(step["run"])],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    lines = files["GITHUB_OUTPUT"].read_text().splitlines()
    return Ran(
        done.returncode,
        done.stdout,
        dict(line.split("=", 1) for line in lines),
        files["GITHUB_STEP_SUMMARY"].read_text(),
        files["GITHUB_PATH"].read_text().splitlines(),
    )
