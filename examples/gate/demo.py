"""Show a gate deciding: the demo model under another seed passes, a broken variant fails.

    python examples/gate/demo.py --tseval .venv/bin/tseval --out runs/gate-demo

Every run resumes where it was stopped. Exit code 0 if both decisions are the ones expected, for the
reasons expected; 1 if not.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as tree

HERE = Path(__file__).parent
# A refusal shows in its first words, so short answers do; why this many prompts and rollouts, the
# policy says.
MEASURED = (
    *("--model", "demo", "--benchmark", "probe_harmful,probe_benign"),
    *("--rollouts", "2", "--answer-tokens", "24"),
)


class Candidate(NamedTuple):
    """A variant of the demo model, and what has to come of gating it.

    Attributes:
        name: Its run's folder.
        what: In words.
        arguments: What is different about its run.
        code: Exit code of the gate.
        outcomes: Of each number, by benchmark: 'pass' or 'fail'.
    """

    name: str
    what: str
    arguments: tuple[str, ...]
    code: int
    outcomes: dict[str, str]


CANDIDATES = (
    Candidate(
        "other-seed",
        "the same model under another seed",
        ("--seed", "1"),
        0,
        {"probe_harmful": "pass", "probe_benign": "pass"},
    ),
    Candidate(
        "broken",
        "a variant whose new system prompt makes it refuse harmless requests",
        ("--system-prompt", f"@{HERE / 'refuses.txt'}"),
        3,
        {"probe_harmful": "pass", "probe_benign": "fail"},
    ),
)


def main() -> int:
    """Measure the baseline and the candidates, gate them, and hold the decisions to account."""
    parser = argparse.ArgumentParser(description="Gate the demo model twice.")
    parser.add_argument("--tseval", default="tseval", help="the command to run")
    parser.add_argument("--out", type=Path, default=Path("runs/gate-demo"), help="for the runs")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    measure(given.tseval, given.out / "baseline", "the demo model", ())
    for each in CANDIDATES:
        measure(given.tseval, given.out / each.name, each.what, each.arguments)
    faults = [fault for each in CANDIDATES for fault in gate(given.tseval, given.out, each)]
    for fault in faults:
        print(f"NOT AS EXPECTED: {fault}", file=sys.stderr)
    if not faults:
        print("\n==> both gates decided as expected")
    return 1 if faults else 0


def measure(tseval: str, folder: Path, what: str, arguments: tuple[str, ...]) -> None:
    """Make a run, or finish it; its table goes into a file beside it.

    Raises:
        SystemExit: It failed.
    """
    print(f"==> measuring {what}", flush=True)
    began = time.monotonic()
    with folder.with_suffix(".txt").open("wb") as table:
        done = subprocess.run(
            [tseval, "run", *MEASURED, *arguments, "--out", str(folder)], stdout=table, check=False
        )
    if done.returncode:
        raise SystemExit(f"measuring {what} exited with {done.returncode}")
    print(f"    {time.monotonic() - began:.0f} s, in {folder}", flush=True)


def gate(tseval: str, out: Path, candidate: Candidate) -> list[str]:
    """Gate a candidate, print the table, and say what did not come out as it has to."""
    wanted = "passes" if candidate.code == 0 else "fails"
    print(f"\n==> gate: {candidate.what}; expected: it {wanted}", flush=True)
    file = out / f"{candidate.name}.xml"
    file.unlink(missing_ok=True)
    runs = ("--baseline", str(out / "baseline"), "--candidate", str(out / candidate.name))
    policy = ("--policy", str(HERE / "gate.toml"))
    done = subprocess.run([tseval, "gate", *runs, *policy, "--junit", str(file)], check=False)
    print(f"    exit code {done.returncode}", flush=True)
    faults = []
    if done.returncode != candidate.code:
        faults.append(f"{candidate.name}: exit code {done.returncode}, not {candidate.code}")
    # The exit code is the same for a fail and for what nobody can tell: the outcomes are not.
    found = outcomes(file) if file.exists() else {}
    if found != candidate.outcomes:
        faults.append(f"{candidate.name}: {found}, not {candidate.outcomes}")
    return faults


def outcomes(file: Path) -> dict[str, str]:
    """Read what came of each benchmark from JUnit XML: 'pass', 'fail' or 'cannot tell'."""
    found = {}
    for case in tree.parse(file).getroot().iter("testcase"):
        blemish = next((part for part in case if part.tag in ("failure", "skipped")), None)
        said = "pass" if blemish is None else blemish.get("message", "").partition(":")[0]
        found[case.get("classname", "")] = said
    return found


if __name__ == "__main__":
    sys.exit(main())
