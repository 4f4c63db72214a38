"""Seconds until the commands that only look something up have answered.

Each is the fastest of five fresh processes, and is set against an interpreter that does nothing.
"""

import subprocess
import sys
import time
from pathlib import Path

TSEVAL = Path(sys.executable).parent / "tseval"
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "tseval --help": [TSEVAL, "--help"],
    "tseval run --help": [TSEVAL, "run", "--help"],
    "tseval plan --help": [TSEVAL, "plan", "--help"],
    "tseval ls benchmarks": [TSEVAL, "ls", "benchmarks"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
}


def seconds(command: list[str | Path], repeats: int = 5) -> float:
    """The least wall time of some runs of a command, in seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Print one row a command."""
    measured = {name: seconds(command) for name, command in COMMANDS.items()}
    least = measured["python -c pass"]
    print(f"{'command':<26} seconds   times an empty interpreter")
    for name, value in measured.items():
        print(f"{name:<26} {value:7.2f}   {value / least:.1f}")


if __name__ == "__main__":
    main()
