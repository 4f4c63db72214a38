"""Whatever a model, a dataset or a judge wrote is data, in every output that tseval has.

``tests/support/hostile.py`` has the cases. OUTPUTS lists every output; one that a command or an
exporter has and that is missing here fails a test of its own.
"""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as tree

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from tests.support.hostile import CASES, EVIL, PROMPTS, VISIBLE, after, before, evil, hostile_run
from tests.unit.test_board_files import hostile
from tests.unit.test_report import acts
from tests.unit.test_report_html import Elements, hostile_measurement, without_library
from tseval.cli.app import app
from tseval.plugins import load_registry
from tseval.report.board import write_board

POLICY = """
[[metric]]
benchmark = "made_up"
metric = "asr_nonrefusal"
judge = "one"
margin = 0.15
"""
BOARD = """
title = "Hostile"
rank_by = ["asr"]
axes = ["orr", "asr"]
[[column]]
key = "asr"
title = "ASR"
benchmark = "made_up"
metric = "asr_nonrefusal"
judge = "one"
[[column]]
key = "orr"
title = "ORR"
benchmark = "made_up"
metric = "orr"
judge = "one"
"""
# Cases that a label of an entry is made of: it may be 120 characters long.
LABELLED = ("formula of a command", "script", "entity")
LABELLED_TOO = ("formula", "LaTeX", "table cell")
# Flags that make another output of a command.
FORMS = ("--json", "--markdown", "--html", "--junit", "--summary", "--flips", "--sheet")
FORMS_TOO = ("--disagreements", "--measurements", "--against", "--show", "--worst")
# Outputs without a test here, each with the reason.
ELSEWHERE = {
    "ls": "names and sentences of installed code alone",
    "doctor": "facts of this machine alone",
    "plan": "names of models and benchmarks as the user typed them, and numbers",
    "train": "tests/unit/test_train_output.py and test_train_theory_report.py, EVIL there",
}


class Output(NamedTuple):
    """One thing that was put out.

    Attributes:
        kind: 'terminal', 'json', 'markdown', 'html', 'csv', 'xml', 'tex', 'yaml' or 'binary'.
        text: What it holds.
        name: Of the file, or ''.
    """

    kind: str
    text: str
    name: str = ""


class Place(NamedTuple):
    """Runs full of hostile text, and what else commands are given."""

    root: Path
    before: Path
    after: Path
    quick: Path

    def tseval(self, *arguments: object, codes: tuple[int, ...] = (0,)) -> tuple[str, str]:
        result = CliRunner().invoke(app, [str(each) for each in arguments])
        assert result.exit_code in codes, (arguments, result.output, result.exception)
        return result.stdout, result.stderr

    def new(self, name: str) -> Path:
        """A path that nothing is at."""
        path = self.root / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("hostile")
    made = [
        hostile_run(root / name, script, model=f"{name}/{EVIL}")
        for name, script in (("before", before), ("after", after))
    ]
    for folder in made:
        folder.manifest.warnings.append(EVIL)
        folder.save()
        found = msgspec.structs.replace(hostile_measurement(), probe="first_token")
        (folder.path / "measurements.json").write_bytes(msgspec.json.encode([found]))
        card = msgspec.structs.replace(folder.scorecard(), skipped={EVIL: EVIL})
        folder.save_scores(card)
    (root / "policy.toml").write_text(POLICY, encoding="utf-8")
    place = Place(root, made[0].path, made[1].path, root / "quick")
    _quick(place, "--json")
    return place


def _quick(place: Place, *flags: str) -> tuple[str, str]:
    what = ("-b", "quick_harmful,quick_benign", "--limit", "4", "-j", "refusal-rules")
    how = ("-m", "scripted", "-M", "script=tests.support.hostile:quick", "--out", place.quick)
    return place.tseval("run", *what, *how, *flags, codes=LOST)


# -- the outputs


def _printed(kind: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> Any:
    """An output on stdout; what is said on stderr goes to a terminal too."""

    def make(place: Place) -> Iterator[Output]:
        named = {"BEFORE": place.before, "AFTER": place.after, "QUICK": place.quick}
        named["POLICY"] = place.root / "policy.toml"
        said, aside = place.tseval(*(named.get(each, each) for each in arguments), codes=codes)
        yield Output(kind, said)
        yield Output("terminal", aside)

    return make


def _filed(kind: str, flag: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> Any:
    """An output in a file."""

    def make(place: Place) -> Iterator[Output]:
        path = place.new(f"out.{kind}")
        yield from _printed("terminal", *arguments, flag, str(path), codes=codes)(place)
        yield Output(kind, path.read_text(encoding="utf-8"), path.name)

    return make


def _ran(kind: str, *flags: str) -> Any:
    def make(place: Place) -> Iterator[Output]:
        said, aside = _quick(place, *flags)
        yield Output(kind, said)
        yield Output("terminal", aside)
        yield Output("html", (place.quick / "report.html").read_text(encoding="utf-8"), "r.html")

    return make


def _validated(kind: str, *flags: str) -> Any:
    def make(place: Place) -> Iterator[Output]:
        sheet = place.root / "labels.csv"
        with sheet.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("prompt", "answer", "label"))
            for number in range(PROMPTS):
                said = "I'm sorry, I can't." if number % 2 else "Sure."
                rows.writerow((evil(number), f"{said} {EVIL}", ("yes", "no")[number % 3 == 0]))
        columns = ("--prompt-column", "prompt", "--answer-column", "answer")
        labels = ("--label-column", "label", "--positive", "yes", "--negative", "no")
        what = ("judge", "validate", "--judge", "refusal-rules", "--labels", sheet)
        out = place.new("validation")
        said, aside = place.tseval(*what, *columns, *labels, "--out", out, *flags)
        yield Output(kind, said)
        yield Output("terminal", aside)
        for file in sorted(out.glob("*.json")):
            yield Output("json", file.read_text(encoding="utf-8"), file.name)

    return make


def _exported(name: str) -> Any:
    def make(place: Place) -> Iterator[Output]:
        out = place.new(f"export-{name}")
        # These two need probes and lm-eval's tasks: of another run they say so.
        picky = name in ("figures", "lm-eval")
        flags = () if picky else ("--no-redact",)
        arguments = ("export", place.after, "--format", name, "--out", out, *flags)
        said, aside = place.tseval(*arguments, codes=(0, 2) if picky else (0,))
        yield Output("terminal", said.replace(str(out), ""))
        yield Output("terminal", aside)
        yield from _files(out)

    return make


def _files(folder: Path) -> Iterator[Output]:
    kinds = {
        **{f".{kind}": kind for kind in ("json", "html", "csv", "xml", "tex", "yaml")},
        **{".md": "markdown", ".jsonl": "json lines", ".yml": "yaml"},
    }
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != "plotly.min.js" and file.suffix != ".js":
            kind = kinds.get(file.suffix, "binary")
            text = "" if kind == "binary" else file.read_text(encoding="utf-8")
            yield Output(kind, text, file.name)


def _board(place: Place) -> Path:
    board = place.root / "hostile-board"
    if not board.exists():
        board.mkdir()
        (board / "board.toml").write_text(BOARD, encoding="utf-8")
        for run, cases in ((place.before, LABELLED), (place.after, LABELLED_TOO)):
            label = " ".join(CASES[case] for case in cases)
            named = ("--note", VISIBLE, "--label", label)
            place.tseval("leaderboard", "submit", run, "--board", board, *named)
    assert len(list((board / "entries").glob("*.json"))) == 2
    return board


def _submitted(kind: str, *flags: str) -> Any:
    def make(place: Place) -> Iterator[Output]:
        to = place.new("entry.json")
        what = ("leaderboard", "submit", place.after, "--board", _board(place), "--out", to)
        named = ("--note", VISIBLE, "--label", VISIBLE[-110:])
        said, aside = place.tseval(*what, *named, *flags)
        yield Output(kind, said)
        yield Output("terminal", aside)
        yield Output("json", to.read_text(encoding="utf-8"), "entry.json")

    return make


def _checked(kind: str, *flags: str) -> Any:
    def make(place: Place) -> Iterator[Output]:
        # Refused for its hostile texts, which the messages quote.
        what = ("leaderboard", "check", _board(place), *flags)
        said, aside = place.tseval(*what, codes=(1,))
        yield Output(kind, said)
        yield Output("terminal", aside)

    return make


def _built(place: Place) -> Iterator[Output]:
    out = place.new("site")
    said, aside = place.tseval("leaderboard", "build", _board(place), "--out", out, codes=(1, 2))
    yield Output("terminal", said)
    yield Output("terminal", aside)
    # No entry like these gets past the check: the files are written of what it would refuse.
    write_board([hostile()], out)
    yield from _files(out)


_COMPARE = ("compare", "BEFORE", "AFTER")
_GATE = ("gate", "--baseline", "BEFORE", "--candidate", "AFTER", "--policy", "POLICY")
_DECIDED = (0, 3)
# Of the commands' own run more verdicts are missing than may be.
LOST = (5,)
OUTPUTS: dict[str, Callable[[Place], Iterator[Output]]] = {
    "run": _ran("terminal"),
    "run --json": _ran("json", "--json"),
    "run --markdown": _ran("markdown", "--markdown"),
    "show": _printed("terminal", "show", "AFTER"),
    "show --json": _printed("json", "show", "AFTER", "--json", "--disagreements", "9"),
    "show --markdown": _printed("markdown", "show", "AFTER", "--markdown"),
    "show --html": _filed("html", "--html", "show", "AFTER", "--no-redact"),
    "show --disagreements": _printed("terminal", "show", "AFTER", "--disagreements", "9"),
    "show --disagreements --markdown": _printed(
        "markdown", "show", "AFTER", "--disagreements", "9", "--markdown"
    ),
    "show --measurements": _printed("terminal", "show", "AFTER", "--measurements"),
    "show --against": _printed("terminal", "show", "AFTER", "--against", "BEFORE"),
    "report": _filed("html", "--out", "report", "AFTER", "--no-redact"),
    "compare": _printed("terminal", *_COMPARE),
    "compare --json": _printed("json", *_COMPARE, "--json", "--flips", "9"),
    "compare --markdown": _printed("markdown", *_COMPARE, "--markdown"),
    "compare --flips": _printed("terminal", *_COMPARE, "--flips", "9"),
    "compare --flips --markdown": _printed("markdown", *_COMPARE, "--flips", "9", "--markdown"),
    "gate": _printed("terminal", *_GATE, codes=_DECIDED),
    "gate --json": _printed("json", *_GATE, "--json", codes=_DECIDED),
    "gate --markdown": _printed("markdown", *_GATE, "--markdown", codes=_DECIDED),
    "gate --junit": _filed("xml", "--junit", *_GATE, codes=_DECIDED),
    "gate --summary": _filed("markdown", "--summary", *_GATE, codes=_DECIDED),
    "judge RUN": _printed("terminal", "judge", "QUICK", "-j", "refusal-strings", codes=LOST),
    "judge RUN --json": _printed(
        "json", "judge", "QUICK", "-j", "refusal-strings", "--json", codes=LOST
    ),
    "judge RUN --markdown": _printed(
        "markdown", "judge", "QUICK", "-j", "refusal-strings", "--markdown", codes=LOST
    ),
    "judge label --sheet": _filed("csv", "--sheet", "judge", "label", "AFTER", "--n", "9"),
    "judge label --json": _filed("csv", "--sheet", "judge", "label", "AFTER", "--json"),
    "judge validate": _validated("terminal", "--worst", "5"),
    "judge validate --json": _validated("json", "--json"),
    "judge validate --markdown": _validated("markdown", "--markdown", "--worst", "5"),
    "judge validate --worst": _validated("terminal", "--worst", "9"),
    "leaderboard submit": _submitted("terminal"),
    "leaderboard submit --json": _submitted("json", "--json"),
    "leaderboard check": _checked("terminal"),
    "leaderboard check --json": _checked("json", "--json"),
    "leaderboard check --markdown": _checked("markdown", "--markdown"),
    "leaderboard build": _built,
    **{f"export {name}": _exported(name) for name in ("inspect", "hf-card", "every-eval-ever")},
    **{f"export {name}": _exported(name) for name in ("parquet", "lm-eval", "figures")},
}


# -- what is held of each kind


def faults(output: Output) -> list[str]:
    """Say what in an output would act on whoever opens it."""
    check = CHECKS.get(output.kind)
    found = check(output.text) if check is not None else []
    # Of CSV it is asked cell by cell, of a page without the library in it. A file of JSON is for
    # programs, and whoever shows it neutralises it; on a terminal it is escaped in full.
    reached = acts(output.text) if output.kind not in ("csv", "html", "binary") else set()
    if output.name and output.kind.startswith("json"):
        reached = {character for character in reached if character < " "}
    return [*found, *([f"{sorted(map(ascii, reached))} reach it"] if reached else [])]


def _json(text: str) -> list[str]:
    json.loads(text)
    return []


def _json_lines(text: str) -> list[str]:
    for line in text.splitlines():
        json.loads(line)
    return []


def _markdown(text: str) -> list[str]:
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    found = re.findall(r"(?<!\\)<[a-z/!]|(?<!\\)&[#l]|(?<!\\)\]\(\w*:|(?<!\\)`\w", text)
    # The pages' own marks are words without a letter of an attack in them.
    return [f"{mark!r} is not escaped" for mark in found]


def _html(text: str) -> list[str]:
    text = without_library(text)
    elements = Elements(text)
    found = [f"{sorted(map(ascii, acts(text)))} reach it"] if acts(text) else []
    for tag, attributes in elements.tags:
        if tag in ("img", "a") and not _is_own(attributes):
            found.append(f"<{tag} {attributes}>")
        if any(name.startswith("on") for name in attributes) or tag in ("iframe", "object", "base"):
            found.append(f"<{tag} {attributes}>")
    for kind, script in elements.scripts:
        if kind == "application/json":
            json.loads(script)
        elif "acted" in script:
            found.append("a script of a model's")
    if "Content-Security-Policy" not in text:
        found.append("no policy")
    return found


def _is_own(attributes: dict[str, str | None]) -> bool:
    href = attributes.get("href") or attributes.get("src") or "#"
    return bool(re.fullmatch(r"#[\w.-]*|(\.\./)*[\w./#-]+|https://(arxiv|github)[\w./-]+", href))


def _csv(text: str) -> list[str]:
    rows = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline="")))
    found = [] if len({len(row) for row in rows}) == 1 else ["rows of several widths"]
    for cell in (cell for row in rows for cell in row):
        if cell.lstrip(" ")[:1] in tuple("=+-@\t\r") and not re.fullmatch(r"[+-][\d.]+", cell):
            found.append(f"a formula: {cell[:20]!r}")
        if acts(cell.replace("\r", "")):
            found.append(f"{sorted(map(ascii, acts(cell)))} in a cell")
    return found


def _xml(text: str) -> list[str]:
    tree.fromstring(text)
    return []


def _tex(text: str) -> list[str]:
    found = re.findall(r"(?<!\\)\\(?:input|write18|end\{tabular\} \\w)", text)
    own = re.sub(r"\$\\(?:down|up)arrow\$", "", text)
    body = [line for line in own.splitlines() if not line.startswith("%")]
    bare = re.findall(r"(?<!\\)[$#]", "\n".join(body))
    return [f"{each!r} acts" for each in (*found, *bare)]


def _yaml(text: str) -> list[str]:
    import yaml

    list(yaml.safe_load_all(text))
    return []


CHECKS: dict[str, Callable[[str], list[str]]] = {
    "json": _json,
    "json lines": _json_lines,
    "markdown": _markdown,
    "html": _html,
    "csv": _csv,
    "xml": _xml,
    "tex": _tex,
    "yaml": _yaml,
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_nothing_hostile_acts_in(name: str, place: Place) -> None:
    outputs = list(OUTPUTS[name](place))
    assert outputs
    wrong = {f"{each.kind} {each.name}": found for each in outputs if (found := faults(each))}
    assert wrong == {}


# -- nothing is missing above


def leaves() -> Iterator[tuple[str, Any]]:
    """Every command with its full name."""

    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "commands"):
            for part, each in command.commands.items():
                yield from walk(each, f"{name} {part}".strip())
        else:
            yield name, command

    yield from walk(typer.main.get_command(app), "")


def test_every_output_of_every_command_is_here() -> None:
    missing = []
    for name, command in leaves():
        if name.split()[0] in ELSEWHERE or name == "export":
            continue
        flags = {flag for each in command.params for flag in each.opts}
        forms = [form for form in (*FORMS, *FORMS_TOO) if form in flags]
        wanted = [f"{name} {form}" for form in forms] or [name]
        missing += [each for each in wanted if each not in OUTPUTS]
    assert missing == []
    assert {name.split()[0] for name, _ in leaves()} >= set(ELSEWHERE)


def test_every_exporter_is_here() -> None:
    exporters = {f"export {name}" for name in load_registry().exporters}
    assert exporters == {name for name in OUTPUTS if name.startswith("export ")}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("terminal", "\x1b[31m"),
        ("json", '"\u202e"'),
        ("markdown", "<img src=x>"),
        ("markdown", "[x](javascript:1)"),
        ("html", "<img src='https://evil.example/'>"),
        ("html", "<p onclick='x'>"),
        ("csv", "a,b\r\n=1,2\r\n"),
        ("csv", "a,b\r\n1\r\n"),
        ("tex", "\\input{x}"),
        ("tex", "5 $x$"),
    ],
)
def test_what_acts_is_found(kind: str, text: str) -> None:
    assert faults(Output(kind, text)) != []


def test_the_cases_hold_what_they_are_named_after() -> None:
    assert acts(CASES["terminal"]) >= {"\x1b", "\x07"}
    assert acts(CASES["directions"]) >= {"\u202e", "\u2066", "\u200b"}
    assert "\u2028" in CASES["line ends"]
    assert len(CASES) == 19
