"""``tseval gate``: may the candidate replace the baseline?"""

import contextlib
import errno
import os
import sys
from pathlib import Path

import typer

from tseval.cli.common import errors, option, words
from tseval.cli.compare import read_sides
from tseval.cli.output import Form, print_json, print_page

EXIT_FAILED = 3


def command(
    baseline: Path = typer.Option(..., "--baseline", help="A run's folder: what is there now."),
    candidate: Path = typer.Option(
        ..., "--candidate", help="A run's folder: what is to replace it."
    ),
    policy: Path = typer.Option(..., "--policy", help="gate.toml: metrics and margins."),
    allow: list[str] = option(
        "--allow", default=[], help="Fields of the protocol that may differ, beside the policy's."
    ),
    junit: Path | None = option("--junit", help="Write JUnit XML into this file."),
    summary: Path | None = option(
        "--summary", help="Append Markdown to this file, such as $GITHUB_STEP_SUMMARY."
    ),
    json: bool = option("--json", default=False, help="Print the decision as JSON."),
    markdown: bool = option("--markdown", default=False, help="Print the table as Markdown."),
    debug: bool = option("--debug", default=False, help="Show tracebacks."),
) -> None:
    """Decide by a policy whether a candidate is no worse than a baseline.

    Exit codes: 0 passed; 2 wrong usage; 3 failed, or nobody can tell and the policy takes that for
    a fail; 4 measured differently.
    """
    with errors(debug=debug):
        from msgspec import to_builtins

        from tseval.compare import compare
        from tseval.gate import decide
        from tseval.policy import read_policy
        from tseval.report.compare import gate_page
        from tseval.report.compare import junit as as_junit
        from tseval.report.judges import markdown_page

        rules = read_policy(policy)
        _, (before, after) = read_sides([baseline, candidate])
        (found,) = compare(before, [after], allow=[*rules.allow, *words(allow)])
        verdict = decide(rules, before, after, found)
        page = gate_page(verdict)
        if junit is not None:
            _write(junit, as_junit(verdict))
        if summary is not None:
            _write(summary, (markdown_page(page) + "\n").encode(), append=True)
        code = 0 if verdict.passed else EXIT_FAILED
        try:
            if json:
                print_json(to_builtins(verdict))
            else:
                form: Form = "markdown" if markdown else "table"
                print_page(page, form)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever stops reading, as `| head` does, must not turn a fail into a pass.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(code)


def _write(path: Path, data: bytes, *, append: bool = False) -> None:
    """Write a file whole, or leave it as it was; only a regular file can be left so."""
    from tseval.errors import ConfigError

    special = path.exists() and not path.is_file()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if special:
            path.write_bytes(data)
        elif append:
            _append(path, data)
        else:
            temporary.write_bytes(data)
            temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error


def _append(path: Path, data: bytes) -> None:
    # Other steps have written into the same file: it is not replaced.
    with path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(before)
            raise
