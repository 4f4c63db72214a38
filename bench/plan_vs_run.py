"""What `tseval plan` said, beside what the run then took: tokens and time, as ratios.

Both are commands in fresh processes, so that loading is part of either. The plan's pilot is its
default one. Where the prompts of a mirror are missing, the quick benchmarks are taken.

    python bench/plan_vs_run.py                      the demo, 200 prompts, 24 tokens an answer
    python bench/plan_vs_run.py --answer-tokens 64   longer answers
    python bench/plan_vs_run.py --model scripted/thinking -M delay=0.5
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TSEVAL = Path(sys.executable).parent / "tseval"
MIRROR = Path(__file__).parent.parent.parent / "shared" / "data"


def timed(*arguments: str) -> tuple[Any, float]:
    """Run a command; return what it printed as JSON, and its seconds."""
    started = time.perf_counter()
    command = [str(TSEVAL), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout), time.perf_counter() - started


def what(options: argparse.Namespace) -> list[str]:
    """Say what both commands are asked for."""
    chosen = ["--suite", "quick"]
    if options.data_dir.is_dir():
        half = str(options.prompts // 2)
        chosen = ["--benchmark", "xstest,strongreject", "--data-dir", str(options.data_dir)]
        chosen += ["--limit", half]
    model = ["--model", options.model] if options.model else []
    more = [word for each in options.model_option for word in ("-M", each)]
    return [*chosen, *model, *more, "--answer-tokens", str(options.answer_tokens)]


def row(name: str, planned: dict[str, float], took: float) -> str:
    """Write one row of the table."""
    inside = "yes" if planned["low"] <= took <= planned["high"] else "no"
    return (
        f"{name:<12} {planned['value']:>10.0f} {planned['low']:>10.0f} {planned['high']:>10.0f}"
        f" {took:>10.0f} {took / planned['value']:>10.2f}   {inside}"
    )


def main() -> None:
    """Plan, run, and print one row a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--answer-tokens", type=int, default=24)
    parser.add_argument("--model", default="")
    parser.add_argument("-M", "--model-option", action="append", default=[])
    parser.add_argument("--data-dir", type=Path, default=MIRROR)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tseval-bench-") as folder:
        out = ["--out", str(Path(folder) / "run")]
        planned, planning = timed("plan", *what(options), *out)
        _, running = timed("run", *what(options), *out)
        manifest = json.loads((Path(folder) / "run" / "run.json").read_text(encoding="utf-8"))
        journal = Path(folder) / "run" / "journal"
        size = sum(file.stat().st_size for file in journal.glob("*.jsonl"))
    (leg,) = manifest["legs"]
    print(f"{planned['prompts']} prompts; the plan took {planning:.0f} s")
    heads = ("planned", "low", "high", "took", "took/plan")
    print(f"{'':<12} {' '.join(f'{head:>10}' for head in heads)}   inside")
    print(row("new tokens", planned["tokens"], leg["counts"]["tokens"]))
    print(row("seconds", planned["seconds"], leg["seconds"]))
    print(row("kB on disk", {k: v / 1000 for k, v in planned["disk_bytes"].items()}, size / 1000))
    print(f"the whole command took {running:.0f} s; planning took {planning / running:.2f} of that")


if __name__ == "__main__":
    main()
