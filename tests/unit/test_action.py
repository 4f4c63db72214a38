"""``action.yml`` and the GitLab job: their steps are run as those machines run them."""

import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as tree

import pytest
import yaml

from tests.support.ci import BASH, Ran, calls, command, real_tseval, recorder, run_step
from tests.unit.test_compare_cli import HOSTILE, POLICY, REFUSAL, made
from tests.unit.test_runner import always
from tseval import load_run
from tseval.testing import mixed

COMMAND = "::error::gotcha"


@pytest.fixture(scope="module")
def action(root: Path) -> dict[str, Any]:
    found = yaml.safe_load((root / "action.yml").read_text())
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    made(folder / "mixed", mixed, "mixed")
    made(folder / "again", mixed, "mixed")
    made(folder / "refuses", always(f"{REFUSAL}\n{COMMAND}"), f"{COMMAND}\n{COMMAND}{HOSTILE}")
    (folder / "gate.toml").write_text(POLICY)
    (folder / "strict.toml").write_text(POLICY.replace("0.15", "0.02"))
    (folder / "lenient.toml").write_text('cannot_tell = "pass"\n' + POLICY.replace("0.15", "0.02"))
    real_tseval(folder / "bin")
    return folder


def step(action: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [each for each in action["runs"]["steps"] if each["name"] == name]
    return dict(found)


def values(action: dict[str, Any], temporary: Path, **inputs: str) -> dict[str, str]:
    names = {f"inputs.{name}": str(each["default"]) for name, each in action["inputs"].items()}
    given = {f"inputs.{name.replace('_', '-')}": value for name, value in inputs.items()}
    assert set(given) <= set(names)
    return {**names, **given, "runner.temp": str(temporary)}


def decided(action: dict[str, Any], runs: Path, temporary: Path, **inputs: str) -> Ran:
    temporary.mkdir(exist_ok=True)
    given = {"baseline": str(runs / "mixed"), "policy": str(runs / "gate.toml")} | inputs
    found = values(action, temporary, **given)
    return run_step(step(action, "Decide"), found, temporary, [runs / "bin"])


def test_scripts_are_bash_and_no_expression_stands_in_them(
    action: dict[str, Any], tmp_path: Path
) -> None:
    scripts = [each for each in action["runs"]["steps"] if "run" in each]
    assert len(scripts) == 5
    for each in scripts:
        assert each["shell"] == "bash"
        assert "${{" not in each["run"]
        subprocess.run([*BASH, "-n", "-c", each["run"]], check=True)
        if shutil.which("shellcheck"):
            file = tmp_path / "step.sh"
            file.write_text("#!/bin/bash\n" + each["run"])
            subprocess.run(["shellcheck", file], check=True)


def test_every_input_is_used_and_every_expression_is_known(
    action: dict[str, Any], root: Path
) -> None:
    text = (root / "action.yml").read_text()
    used = set(re.findall(r"inputs\.([a-z-]+)", text))
    assert used == set(action["inputs"])
    assert all(each["description"] for each in action["inputs"].values())
    ids = {each.get("id") for each in action["runs"]["steps"]}
    assert set(re.findall(r"steps\.([a-z]+)\.", text)) <= ids
    written = set(re.findall(r'echo "([a-z]+)=', step(action, "Decide")["run"]))
    assert written == set(action["outputs"])


def test_tseval_is_installed_under_the_pins_with_torch_first(
    action: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    recorder(tmp_path / "made", "python", log)
    # Stands in for python -m venv FOLDER.
    copying = f'mkdir -p "$3/bin"; cp "{tmp_path}/made/python" "$3/bin/python"'
    command(tmp_path / "bin", "python", copying)
    found = values(action, tmp_path, torch_index="an index")
    found["github.action_path"] = str(root)
    ran = run_step(step(action, "Install tseval"), found, tmp_path, [tmp_path / "bin"])
    assert ran.code == 0, ran.output
    torch, itself = calls(log)
    assert torch[-2:] == ["--index-url=an index", "torch"]
    assert itself[-1] == str(root)
    for call in (torch, itself):
        assert call[call.index("--constraint") + 1] == str(root / "constraints.txt")
    assert ran.path == [str(tmp_path / "tseval-venv" / "bin")]
    key = run_step(step(action, "Name the cache"), found, tmp_path)
    assert re.fullmatch(r"\d+-\d+", key.outputs["sum"])


def test_what_stands_in_an_input_is_never_run(action: dict[str, Any], tmp_path: Path) -> None:
    log = tmp_path / "log"
    recorder(tmp_path / "bin", "tseval", log)
    evil = '"; touch owned; echo "$(touch owned) `touch owned`'
    found = values(
        action, tmp_path, model=evil, suite=evil, candidate="--out of --order",
        run_args=f"--rollouts=4\r\n\n{evil}\n--system-prompt=two words",
    )  # fmt: skip
    ran = run_step(step(action, "Measure the candidate"), found, tmp_path, [tmp_path / "bin"])
    assert ran.code == 0, ran.output
    assert calls(log) == [
        [
            "run", f"--model={evil}", "--out=--out of --order", f"--suite={evil}",
            "--rollouts=4", evil, "--system-prompt=two words",
        ]
    ]  # fmt: skip
    log.write_text("")
    found = values(action, tmp_path, baseline=evil, candidate=evil, policy=evil, allow=evil)
    run_step(step(action, "Decide"), found, tmp_path, [tmp_path / "bin"])
    (call,) = calls(log)
    assert call[:4] == ["gate", f"--baseline={evil}", f"--candidate={evil}", f"--policy={evil}"]
    assert call[-1] == f"--allow={evil}"
    assert not list(tmp_path.rglob("owned"))


def texts(run: Path) -> set[tuple[str, str]]:
    """Prompt and answer of each rollout of a run."""
    found = {
        (each.row.prompt, each.rollout.answer or "")
        for each in load_run(run).rollouts()
        if each.rollout is not None
    }
    assert found
    assert all(prompt and answer for prompt, answer in found)
    return found


def test_a_run_that_fails_fails_the_step(action: dict[str, Any], tmp_path: Path) -> None:
    recorder(tmp_path / "bin", "tseval", tmp_path / "log", code=5)
    found = values(action, tmp_path, model="m")
    ran = run_step(step(action, "Measure the candidate"), found, tmp_path, [tmp_path / "bin"])
    assert ran.code == 5
    (call,) = calls(tmp_path / "log")
    assert call == ["run", "--model=m", f"--out={tmp_path / 'tseval-candidate'}"]


def test_a_candidate_is_measured_gated_and_kept_without_its_answers(
    action: dict[str, Any], runs: Path, tmp_path: Path
) -> None:
    given = values(
        action, tmp_path, model="scripted/mixed", run_args="--benchmark=quick_harmful,quick_benign"
    )
    ran = run_step(step(action, "Measure the candidate"), given, tmp_path, [runs / "bin"])
    assert ran.code == 0, ran.output
    gated = decided(action, runs, tmp_path)
    assert gated.code == 0, gated.output
    folder = tmp_path / "tseval-gate"
    assert gated.outputs == {"outcome": "pass", "passed": "true", "folder": str(folder)}
    assert "Gate: PASS" in gated.summary
    assert tree.parse(folder / "gate.xml").getroot().get("tests") == "2"
    given["steps.gate.outputs.folder"] = str(folder)
    kept = run_step(step(action, "Write the report"), given, tmp_path, [runs / "bin"])
    assert kept.code == 0, kept.output
    names = {each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()}
    candidate = {f"candidate/{name}.json" for name in ("run", "scores", "outcomes")}
    assert names == {"gate.json", "gate.md", "gate.xml", "gate.err", "report.html", *candidate}
    assert "ORR" in (folder / "report.html").read_text()
    said = texts(tmp_path / "tseval-candidate")
    for name in names:
        text = unescape((folder / name).read_text())
        assert not [each for each in said if each[0] in text or each[1] in text]
    # What is kept is a baseline for the next gate, whether from a folder or from an artifact.
    shutil.copytree(folder, tmp_path / "tseval-baseline")
    again = decided(
        action, runs, tmp_path, baseline="", baseline_artifact="any", candidate=str(runs / "again")
    )
    assert (again.code, again.outputs["outcome"]) == (0, "pass"), again.output


@pytest.mark.parametrize(
    ("candidate", "policy", "code", "outcome", "passed"),
    [
        ("refuses", "gate.toml", 3, "fail", "false"),
        ("again", "strict.toml", 3, "cannot tell", "false"),
        ("again", "lenient.toml", 0, "cannot tell", "true"),
        ("nowhere", "gate.toml", 2, "error", "false"),
    ],
)
def test_the_gate_s_exit_code_decides_and_no_line_of_a_model_is_a_command(
    action: dict[str, Any],
    runs: Path,
    tmp_path: Path,
    candidate: str,
    policy: str,
    code: int,
    outcome: str,
    passed: str,
) -> None:
    ran = decided(
        action, runs, tmp_path, candidate=str(runs / candidate), policy=str(runs / policy)
    )
    assert (ran.code, ran.outputs["outcome"], ran.outputs["passed"]) == (code, outcome, passed)
    assert ran.summary.strip()
    if outcome == "error":
        assert "no run in" in ran.summary
    lines = ran.output.splitlines()
    (stop,) = [n for n, line in enumerate(lines) if line.startswith("::stop-commands::")]
    token = lines[stop].removeprefix("::stop-commands::")
    assert len(token) == 32
    assert lines[-1] == f"::{token}::"
    assert not [line for line in lines[:stop] if line.lstrip().startswith("::")]
    assert lines.count(f"::{token}::") == 1


@pytest.mark.parametrize(
    ("code", "printed"),
    [(0, ""), (0, '  "outcome": "fail"'), (3, '  "outcome": "pass"'), (0, '    "outcome": "pass"'),
     (1, '  "outcome": "pass"')],
)  # fmt: skip
def test_a_decision_that_contradicts_itself_is_none(
    action: dict[str, Any], tmp_path: Path, code: int, printed: str
) -> None:
    command(tmp_path / "bin", "tseval", f"echo '{printed}'; exit {code}")
    found = values(action, tmp_path, baseline="a", candidate="b")
    ran = run_step(step(action, "Decide"), found, tmp_path, [tmp_path / "bin"])
    assert ran.code != 0
    assert ran.outputs["outcome"] == "error"
    assert ran.outputs["passed"] == "false"


def blocks(root: Path) -> list[dict[str, Any]]:
    text = (root / "docs" / "how-to" / "gate-a-merge.md").read_text()
    return [yaml.safe_load(each) for each in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


def test_the_workflow_in_the_docs_gives_the_action_what_it_takes(
    action: dict[str, Any], root: Path
) -> None:
    (workflow,) = [each for each in blocks(root) if "jobs" in each]
    steps = [each for job in workflow["jobs"].values() for each in job["steps"]]
    uses = [each for each in steps if "/tseval@" in each.get("uses", "")]
    assert uses
    for each in uses:
        assert set(each["with"]) <= set(action["inputs"])
    for each in steps:
        assert "${{" not in each.get("run", "")


@pytest.mark.parametrize(("policy", "code"), [("gate.toml", 0), ("strict.toml", 3)])
def test_the_job_for_gitlab_decides_and_leaves_what_it_names(
    root: Path, runs: Path, tmp_path: Path, policy: str, code: int
) -> None:
    (job,) = [each["gate"] for each in blocks(root) if "gate" in each]
    pips = tmp_path / "pips"
    recorder(tmp_path / "bin", "pip", pips)
    shutil.copytree(runs / "mixed", tmp_path / "baseline")
    shutil.copy(runs / policy, tmp_path / "gate.toml")
    path = [str(tmp_path / "bin"), str(runs / "bin"), os.environ["PATH"]]
    environment = {**os.environ, **job["variables"], "MODEL": "scripted/mixed"}
    environment |= {"PATH": os.pathsep.join(path), "CI_PROJECT_DIR": str(tmp_path)}
    script = "\n".join(job["script"])
    done = subprocess.run([*BASH, "-c", script], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == code
    assert [call[0] for call in calls(pips)] == ["install"]
    artifacts = job["artifacts"]
    assert artifacts["when"] == "always"
    suite = tree.parse(tmp_path / artifacts["reports"]["junit"]).getroot()
    assert suite.get("failures") == ("0" if code == 0 else "2")
    for each in artifacts["paths"]:
        assert list(tmp_path.glob(each)), each
