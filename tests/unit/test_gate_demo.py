"""``examples/gate/demo.py``, with a stand-in for tseval: it cannot succeed by accident."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tseval.policy import read_policy

# Writes what a gate would, and notes how it was called.
STAND_IN = """#!{python}
import json, sys
from pathlib import Path
given = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps(given) + "\\n")
value = lambda flag: Path(given[given.index(flag) + 1])
if given[0] == "run":
    value("--out").mkdir(exist_ok=True)
    raise SystemExit({run})
decided = {decided!r}[value("--candidate").name]
cases = [
    f'<testcase classname="{{name}}" name="x">'
    + ("" if outcome == "pass" else f'<failure message="{{outcome}}: why"/>')
    + "</testcase>"
    for name, outcome in decided["outcomes"].items()
]
if decided["outcomes"]:
    value("--junit").write_text("<testsuite>" + "".join(cases) + "</testsuite>")
raise SystemExit(decided["code"])
"""
GOOD = {"code": 0, "outcomes": {"probe_harmful": "pass", "probe_benign": "pass"}}
BAD = {"code": 3, "outcomes": {"probe_harmful": "pass", "probe_benign": "fail"}}


def demo(
    root: Path, folder: Path, seed: dict[str, object], broken: dict[str, object], *, run: int = 0
) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    log, command = folder / "log", folder / "tseval"
    log.touch()
    decided = {"other-seed": seed, "broken": broken}
    command.write_text(
        STAND_IN.format(python=sys.executable, log=str(log), decided=decided, run=run)
    )
    command.chmod(0o755)
    script = root / "examples" / "gate" / "demo.py"
    done = subprocess.run(
        [sys.executable, script, "--tseval", command, "--out", folder / "runs"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done, [json.loads(line) for line in log.read_text().splitlines()]


def test_it_measures_three_models_alike_and_gates_two(root: Path, tmp_path: Path) -> None:
    done, calls = demo(root, tmp_path, GOOD, BAD)
    assert done.returncode == 0, done.stderr
    runs = [call for call in calls if call[0] == "run"]
    gates = [call for call in calls if call[0] == "gate"]
    assert (len(runs), len(gates)) == (3, 2)
    baseline, seed, broken = runs
    shared = baseline[: baseline.index("--out")]
    assert [run[: len(shared)] for run in (seed, broken)] == [shared, shared]
    assert seed[len(shared) : len(shared) + 2] == ["--seed", "1"]
    prompt = broken[broken.index("--system-prompt") + 1]
    assert Path(prompt.removeprefix("@")).read_text()
    for call in gates:
        assert call[call.index("--baseline") + 1] == str(tmp_path / "runs" / "baseline")


CANNOT_TELL = {"code": 3, "outcomes": {"probe_harmful": "pass", "probe_benign": "cannot tell"}}


@pytest.mark.parametrize(
    ("seed", "broken"),
    [
        (GOOD, GOOD),
        (BAD, BAD),
        (BAD, GOOD),
        (CANNOT_TELL, BAD),
        (GOOD, CANNOT_TELL),
        (GOOD, {"code": 3, "outcomes": {"probe_harmful": "fail", "probe_benign": "pass"}}),
        (GOOD, {"code": 3, "outcomes": {"probe_benign": "fail"}}),
        (GOOD, {"code": 2, "outcomes": {}}),
        (GOOD, {"code": 4, "outcomes": {}}),
        ({"code": 0, "outcomes": {}}, BAD),
    ],
)
def test_any_other_decision_is_not_as_expected(
    root: Path, tmp_path: Path, seed: dict[str, object], broken: dict[str, object]
) -> None:
    done, _ = demo(root, tmp_path, seed, broken)
    assert done.returncode == 1
    assert "NOT AS EXPECTED" in done.stderr
    assert "as expected" not in done.stdout


def test_an_old_decision_is_not_taken_for_the_new_one(root: Path, tmp_path: Path) -> None:
    assert demo(root, tmp_path, GOOD, BAD)[0].returncode == 0
    done, _ = demo(root, tmp_path, GOOD, {"code": 3, "outcomes": {}})
    assert done.returncode == 1


def test_a_run_that_fails_ends_it_before_any_gate(root: Path, tmp_path: Path) -> None:
    done, calls = demo(root, tmp_path, GOOD, BAD, run=5)
    assert done.returncode == 1
    assert "exited with 5" in done.stderr
    assert [call[0] for call in calls] == ["run"]


def test_its_policy_is_one(root: Path) -> None:
    policy = read_policy(root / "examples" / "gate" / "gate.toml")
    assert [(rule.benchmark, rule.metric) for rule in policy.metrics] == [
        ("probe_harmful", "asr_nonrefusal"),
        ("probe_benign", "orr"),
    ]
    assert policy.cannot_tell == "fail"
