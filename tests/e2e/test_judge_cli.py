"""``tseval judge RUN`` and what ``tseval show`` makes of it: exit codes, kills, Ctrl-C, tables."""

import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.panel_judges import Asks, Guard, Guards, Plain
from tests.support.signals import heed_interrupts
from tseval.errors import BackendError, RequestFailed
from tseval.roles import JudgeCase, JudgeModel
from tseval.runfolder import RunFolder
from tseval.types import Verdict

ROOT = Path(__file__).parents[2]
MAIN = (sys.executable, "-c", "import tests.e2e.test_judge_cli as t; t.main()")
PANEL = "panel(slow,odd,refusal-rules; vote>=2, tie=comply)"
ROLLOUTS = 48 * 4
RUN = (
    *("run", "--model", "scripted/thinking", "--benchmark", "quick_harmful,quick_benign"),
    *("--rollouts", "4", "--thinking-budget", "300"),
)


class Slow(Plain):
    """Takes its time."""

    async def judge(self, case: JudgeCase, model: JudgeModel | None) -> Verdict:
        await asyncio.sleep(float(os.environ.get("SLOW", "0")))
        return Verdict(refusal="sorry" in case.text, raw="rule")


class Odd(Plain):
    """Disagrees now and then, and can't read a share of the texts."""

    def __init__(self, name: str, lost: float) -> None:
        super().__init__(name)
        self._lost = lost

    async def judge(self, case: JudgeCase, model: JudgeModel | None) -> Verdict:
        number = int.from_bytes(sha256(f"{case.prompt}{case.text}".encode()).digest()[:4], "big")
        if number % 1000 < 1000 * self._lost:
            return Verdict(reason="unparsed", raw="\x1b[31m?")
        return Verdict(refusal=("sorry" in case.text) is (number % 5 > 0))


class Fails(Odd):
    """Odd, with calls that fail instead of verdicts that cannot be read."""

    async def judge(self, case: JudgeCase, model: JudgeModel | None) -> Verdict:
        verdict = await super().judge(case, model)
        if verdict.reason != "ok":
            raise RequestFailed("no answer", kind="server")
        return verdict


class Down(Guard):
    """A model that isn't there."""

    async def start(self, report: Any) -> Any:
        raise BackendError("no weights in guards/down", hint="fetch them")


def plugin() -> Guards:
    return Guards(
        Slow("slow"),
        Odd("odd", 0.0),
        Odd("few", 0.025),
        Odd("many", 0.2),
        Odd("all", 1.0),
        Fails("fails", 0.2),
        Asks("down"),
        Asks("asks"),
        made={"down": Down(name="down")},
    )


def main() -> None:
    """Run the command line with the judges of this file."""
    from tseval import cli, plugins

    plain = plugins.load_registry
    plugins.load_registry = lambda *more, **how: plain(*more, extra=[plugin()], **how)
    cli.main()


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*MAIN, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        preexec_fn=heed_interrupts,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        output, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    return process.returncode, output, errors


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def tseval(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Call the command line in this process, with the judges of this file."""
    from tseval import plugins

    plain = plugins.load_registry
    monkeypatch.setattr(
        plugins, "load_registry", lambda *more, **how: plain(*more, extra=[plugin()], **how)
    )

    def call(*arguments: str, **environment: str) -> Done:
        from tseval.cli import main

        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["tseval", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else int(code or 0), shown.out, shown.err)

    return call


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run under one judge."""
    out = tmp_path_factory.mktemp("base") / "run"
    code, _, errors = end(start(*RUN, "--out", str(out)))
    assert code == 0, errors
    return out


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(base, tmp_path / "run"))


def journal(out: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted((out / "journal").glob("*.jsonl")))


def records(out: Path) -> dict[str, Any]:
    """What the journal holds by key, without the time; a key that is there twice fails."""
    found = [json.loads(line) for line in journal(out).splitlines()]
    assert Counter(r["key"] for r in found).most_common(1)[0][1] == 1, "a record was made twice"
    return {r["key"]: (r["kind"], r["data"]) for r in found}


def scores(out: Path) -> bytes:
    return (out / "scores.json").read_bytes()


def short(text: str) -> list[str]:
    """The lines of an error message; more than three, or a traceback, fail."""
    lines = [line for line in text.splitlines() if line]
    assert 1 <= len(lines) <= 3, text
    assert "Traceback" not in text
    return lines


# -- judging


def test_a_run_is_judged_by_another_judge_and_nothing_is_generated(tseval: Any, run: Path) -> None:
    before, old = records(run), RunFolder.load(run).scorecard()
    done = tseval("judge", run, "--judge", "slow")
    assert done.code == 0
    assert "verdicts made, nothing generated" in done.err
    new = RunFolder.load(run).scorecard()
    assert [score for score in new.scores if score in old.scores] == old.scores
    assert {score.judge for score in new.scores} == {"refusal-rules", "slow"}
    assert before.items() <= records(run).items()
    kinds = Counter(kind for key, (kind, _) in records(run).items() if key not in before)
    assert set(kinds) == {"verdict", "row"}
    assert done.out.count("slow") == 2  # one reading of the first metric, and the second
    # The options may stand first, and the second time there is nothing to do.
    again = tseval("judge", "--judge", "slow", run)
    assert (again.code, again.out) == (0, done.out)
    assert ": 0 verdicts made" in again.err
    assert RunFolder.load(run).scorecard() == new


def test_a_panel_in_a_variable_is_one_judge(tseval: Any, run: Path) -> None:
    done = tseval("judge", run, "--json", TSEVAL_JUDGE=f"{PANEL},few")
    assert done.code == 0, done.err
    assert {score["judge"] for score in json.loads(done.out)["scores"]} == {
        *("refusal-rules", "slow", "odd", "few", PANEL),
    }


@pytest.mark.parametrize("name", ["run", "judge"])
def test_a_folder_may_be_called_like_a_command(
    tseval: Any, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shutil.copytree(base, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert tseval("judge", name, "-j", "slow").code == 0


def test_what_cannot_be_done_is_said_in_a_few_lines(tseval: Any, run: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for arguments, code, said in (
        ((run,), 2, "no judge given"),
        ((run, "--judge", "slwo"), 2, "did you mean 'slow'"),
        ((run, "--judge", "slow(x=1)"), 2, "takes no options"),
        ((run, "--judge", "panel(slow,odd; vote>=9)"), 2, "no majority that can be reached"),
        ((run, "--judge", "slow", "-J", "dtype=float32"), 2, "no judge of this run takes -J"),
        ((run, "--judge", "asks@nowhere"), 2, "nowhere"),
        ((tmp_path / "none", "--judge", "slow"), 2, "no run in"),
    ):
        done = tseval("judge", *arguments)
        assert done.code == code, done.err
        assert said in " ".join(short(done.err))
        assert done.out == ""
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_judge_whose_model_is_missing_leaves_the_run_as_it_was(tseval: Any, run: Path) -> None:
    before = scores(run), journal(run)
    done = tseval("judge", run, "--judge", "down")
    assert done.code == 1
    assert "no weights in guards/down" in done.err
    assert (scores(run), journal(run)) == before
    manifest = RunFolder.load(run).manifest
    assert (manifest.status, manifest.judges) == ("complete", [])
    assert tseval("show", run).code == 0


def test_a_run_without_scores_is_to_be_finished_first(tseval: Any, run: Path) -> None:
    (run / "scores.json").unlink()
    done = tseval("judge", run, "--judge", "slow")
    assert done.code == 2
    lines = short(done.err)
    assert "has no scores yet" in lines[0]
    assert "tseval run" in lines[-1]


@pytest.mark.parametrize(
    ("judge", "code", "said"),
    [("slow", 0, ""), ("few", 0, "warning: "), ("many", 5, "error: "), ("all", 5, "error: 100.0%")],
)
def test_verdicts_that_are_missing_decide_the_exit_code(
    tseval: Any, run: Path, judge: str, code: int, said: str
) -> None:
    done = tseval("judge", run, "--judge", judge)
    assert done.code == code
    assert said in done.err
    assert ("of the verdicts of a benchmark are missing" in done.err) is bool(said)
    # What cannot be read is kept: the same command would find it, and not ask again.
    assert ("cannot be read" in done.err) is bool(said)
    assert "tries those again" not in done.err


def test_only_verdicts_that_failed_are_said_to_be_tried_again(tseval: Any, run: Path) -> None:
    done = tseval("judge", run, "--judge", "fails")
    assert done.code == 5
    assert "failed (the same command tries those again)" in done.err
    assert "cannot be read" not in done.err


def test_a_member_that_says_nothing_is_no_loss_where_its_panel_decides(
    tseval: Any, run: Path
) -> None:
    done = tseval("judge", run, "--judge", "panel(slow,odd,all; vote>=2, missing=no)")
    assert (done.code, "error: " in done.err) == (0, False), done.err


def test_what_an_earlier_judge_lost_is_not_held_against_a_new_one(tseval: Any, run: Path) -> None:
    done = tseval("judge", run, "--judge", "all")
    assert done.code == 5
    assert "by all has no value" in done.err
    done = tseval("judge", run, "--judge", "slow")
    assert (done.code, "error: " in done.err) == (0, False), done.err


def test_a_score_without_a_value_is_incomplete(tseval: Any, run: Path) -> None:
    # Two who never agree, and a tie decides nothing: no verdict is missing, and none is there.
    done = tseval("judge", run, "--judge", "panel(all,all(text=answer); vote=soft)")
    assert done.code == 2  # a member may not have a text of its own
    done = tseval("judge", run, "--judge", "panel(all,many; vote=soft)")
    assert done.code == 5
    assert "by panel(all,many; vote=soft) has no value" in done.err


@pytest.mark.parametrize("lost", ["all", "half"])
def test_a_journal_that_is_gone_or_cut_is_said_to_be(tseval: Any, run: Path, lost: str) -> None:
    if lost == "all":
        shutil.rmtree(run / "journal")
    else:
        [segment] = (run / "journal").glob("*.jsonl")
        lines = segment.read_bytes().splitlines(keepends=True)
        # By records of rows: how many of them stand among the first lines depends on the machine.
        rows = [place for place, line in enumerate(lines) if b'"kind":"row"' in line]
        segment.write_bytes(b"".join(lines[: rows[len(rows) // 4] + 1]))
    before = scores(run)
    found = "holds none of the" if lost == "all" else "holds only"
    done = tseval("judge", run, "--judge", "slow")
    assert (done.code, found in done.err) == (2, True), done.err
    assert scores(run) == before
    assert (run / "journal").exists() is (lost == "half")
    done = tseval("show", run, "--disagreements", "3")
    assert (done.code, found in done.err) == (1, True), done.err
    assert "they agree" not in done.out


# -- kills and Ctrl-C


def wait_for_verdicts(process: subprocess.Popen[str], out: Path, size: int) -> None:
    while process.poll() is None and len(journal(out)) < size:
        time.sleep(0.002)


def test_judging_that_is_killed_repeats_no_verdict(base: Path, tmp_path: Path) -> None:
    whole, killed = (Path(shutil.copytree(base, tmp_path / name)) for name in ("whole", "killed"))
    command = ("--judge", f"{PANEL},few")
    code, _, errors = end(start("judge", str(whole), *command))
    assert code == 0, errors
    begun, size = len(journal(base)), len(journal(whole))
    left = [journal(killed)]
    for share in (0.1, 0.3, 0.6):
        process = start("judge", str(killed), *command, SLOW="0.15")
        wait_for_verdicts(process, killed, begun + int(share * (size - begun)))
        process.send_signal(signal.SIGKILL)
        end(process)
        left.append(journal(killed))
        assert scores(killed) == scores(base)
        assert RunFolder.load(killed).manifest.judges == []
    assert any(begun < len(each) < size for each in left), "no kill hit the middle"
    code, _, errors = end(start("judge", str(killed), *command))
    assert code == 0, errors
    final = journal(killed)
    for earlier in left:
        kept = earlier[: earlier.rfind(b"\n") + 1]
        assert final.startswith(kept)
    assert records(killed) == records(whole)
    assert scores(killed) == scores(whole)
    manifest = RunFolder.load(killed).manifest
    done = [line for line in left[-1].splitlines(keepends=True) if line.endswith(b"\n")]
    before = sum(json.loads(line)["kind"] == "verdict" for line in done)
    all_of_them = sum(kind == "verdict" for kind, _ in records(killed).values())
    assert manifest.legs[-1].counts["verdict.made"] == all_of_them - before
    assert (manifest.status, manifest.judges) == ("complete", [PANEL, "few"])


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupt_names_the_command_that_goes_on(
    base: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = Path(shutil.copytree(base, tmp_path / "a run's folder"))
    arguments = ("judge", str(out), "--judge", PANEL)
    process = start(*arguments, SLOW="1")
    wait_for_verdicts(process, out, len(journal(base)) + 500)
    process.send_signal(number)
    code, _, errors = end(process)
    assert code == 130, errors
    assert "Traceback" not in errors
    command = errors.splitlines()[-1].strip()
    # Panels have parentheses, blanks and a semicolon: a shell must not see any of them.
    assert shlex.split(command) == ["tseval", *arguments]
    assert "interrupted; nothing is lost" in errors
    manifest = RunFolder.load(out).manifest
    assert (manifest.status, manifest.judges) == ("complete", [])
    assert scores(out) == scores(base)
    before = len(journal(out))
    assert before > len(journal(base))
    code, _, errors = end(start(*shlex.split(command)[1:]))
    assert code == 0, errors
    assert len(journal(out)) > before
    records(out)
    assert RunFolder.load(out).manifest.judges == [PANEL]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_validation_that_is_interrupted_goes_on_with_the_same_command(
    tmp_path: Path, number: signal.Signals
) -> None:
    labels = tmp_path / "l.jsonl"
    rows = [{"prompt": "p", "answer": f"sorry {n}", "label": n % 2} for n in range(200)]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("judge", "validate", "--judge", "slow", "--labels", str(labels), "--json")
    cache = tmp_path / "cache"
    process = start(*arguments, SLOW="1", XDG_CACHE_HOME=str(cache))
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline:
        if sum(len(f.read_bytes().splitlines()) for f in cache.rglob("*.jsonl")) > 20:
            break
        time.sleep(0.01)
    process.send_signal(number)
    code, output, errors = end(process)
    assert (code, output) == (130, ""), errors
    assert "interrupted; nothing is lost" in errors
    assert shlex.split(errors.splitlines()[-1]) == ["tseval", *arguments]
    [kept] = (cache / "tseval" / "validations").glob("*/journal/*.jsonl")
    assert 20 < len(kept.read_bytes().splitlines()) < 200
    code, output, errors = end(start(*arguments, XDG_CACHE_HOME=str(cache)))
    assert code == 0, errors
    assert json.loads(output)["record"]["n"] == 200
    assert not list((cache / "tseval" / "validations").iterdir())


# -- showing


@pytest.fixture(scope="module")
def shown(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run under several judges."""
    out = Path(shutil.copytree(base, tmp_path_factory.mktemp("shown") / "run"))
    code, _, errors = end(start("judge", str(out), "--judge", PANEL, "--judge", "few"))
    assert code == 0, errors
    return out


@pytest.fixture
def showing(tseval: Any) -> Callable[..., str]:
    """Show a run in this process."""

    def show(out: Path, *more: str) -> str:
        done = tseval("show", out, *more)
        assert done.code == 0, done.err
        return str(done.out)

    return show


def test_a_run_under_one_judge_shows_its_scorecard_and_nothing_else(
    base: Path, shown: Path, showing: Callable[..., str]
) -> None:
    text = showing(base)
    assert "Agreement" not in text
    card = json.loads(showing(base, "--json"))
    assert card == json.loads(scores(base))
    assert "Agreement" in showing(shown)


def test_every_metric_is_shown_under_each_judge_and_rule(
    shown: Path, showing: Callable[..., str]
) -> None:
    text = showing(shown, "--markdown")
    rows = [line for line in text.splitlines() if line.startswith("| quick_")]
    for judge in ("refusal-rules", "slow", "odd", "few", PANEL):
        mine = [row for row in rows if f"| {judge} " in row]
        assert len([row for row in mine if "quick_harmful" in row]) >= 1
        assert len([row for row in mine if "quick_benign" in row]) == 1
    assert "| refusal | refusal-rules |" in " ".join(text.split())


def test_json_has_the_scorecard_and_what_was_found_beside_it(
    shown: Path, showing: Callable[..., str]
) -> None:
    from sklearn.metrics import cohen_kappa_score

    found = json.loads(showing(shown, "--json", "--disagreements", "5"))
    card = json.loads(scores(shown))
    assert {key: found[key] for key in card} == card
    assert set(found) - set(card) == {"agreement", "disagreements"}
    agreement = found["agreement"]
    assert agreement["rollouts"] == ROLLOUTS
    names = ["refusal-rules", "slow", "odd", "few"]
    assert sorted({p[side] for p in agreement["pairs"] for side in ("first", "second")}) == sorted(
        names
    )
    assert {g["name"] for g in agreement["groups"]} == {PANEL, "all judges"}
    rows = records(shown)
    votes: dict[tuple[Any, ...], dict[str, Any]] = {}
    for kind, row in rows.values():
        if kind == "row":
            place = votes.setdefault((row["benchmark"], row["sample"], row["rollout"]), {})
            for judge, key in row["verdicts"].items():
                verdict = rows[key][1] if key else {}
                place[judge] = verdict.get("refusal")
    for pair in agreement["pairs"]:
        both = [(v[pair["first"]], v[pair["second"]]) for v in votes.values()]
        both = [each for each in both if None not in each]
        left, right = zip(*both, strict=True)
        value = pair["kappa"]["estimate"]["value"]
        assert value == pytest.approx(cohen_kappa_score(left, right))
    assert len(found["disagreements"]) == 5
    for each in found["disagreements"]:
        assert set(each) == {"label", "stored", "votes"}
        assert set(each["votes"]) == set(names)
        assert each["stored"]["rollout"]["answer"]


def test_what_is_shown_is_the_same_each_time(shown: Path) -> None:
    # With this seed the order of sets changes.
    command = ("show", str(shown), "--json", "--disagreements", "9")
    started = [start(*command, PYTHONHASHSEED=seed) for seed in "012"]
    first, *others = [end(process) for process in started]
    assert first[0] == 0, first
    assert json.loads(first[1])
    assert all(other[:2] == first[:2] for other in others)


def test_the_most_divided_rollouts_are_shown_on_demand(
    shown: Path, showing: Callable[..., str]
) -> None:
    text = showing(shown, "--disagreements", "3", "--markdown")
    _, _, page = text.partition("**Rollouts that divide the judges most**")
    rows = [line for line in page.splitlines() if line.startswith("| refusal")]
    assert len(rows) == 3
    assert all("refusal-rules:" in row and "few:" in row for row in rows)
    assert "divide the judges most" not in showing(shown, "--markdown")


def test_a_run_without_its_journal_shows_its_scorecard_still(
    shown: Path, tmp_path: Path, tseval: Any, showing: Callable[..., str]
) -> None:
    out = Path(shutil.copytree(shown, tmp_path / "run"))
    shutil.rmtree(out / "journal")
    text = showing(out, "--markdown")
    assert "the run's journal is gone" in text
    assert PANEL in text
    done = tseval("show", out, "--disagreements", "3")
    assert done.code == 1
    assert "the run's journal holds none of the" in short(done.err)[0]
