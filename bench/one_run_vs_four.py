"""Wall time of four benchmarks: in one run, in four runs, and through lm-eval's own command line.

The four are lm-eval tasks over the same rows for all three sides, made here: greedy, one turn, the
same budget; so each side makes the same completions on the same weights in the same dtype. Every
side is made of commands in fresh processes, as a user types them, so imports, loading, building
prompts and scoring are in its time. lm-eval runs all four tasks in one command, at batch sizes of
its default (1) and of --batches.

    python bench/one_run_vs_four.py                    the demo, 4 x 12 prompts, 48 tokens an answer
    python bench/one_run_vs_four.py --limit 2          a look whether it works
    python bench/one_run_vs_four.py --model FOLDER --limit 100 --tokens 256 --batches 16 64
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from tseval.models.demo import demo_folder

ROOT = Path(__file__).parent.parent
MIRROR = ROOT.parent / "shared" / "data"
# Benchmark, its rows below a mirror, and the column that is asked.
MIRRORED = (
    ("gsm8k", "reasoning/gsm8k.jsonl", "question"),
    ("math500", "reasoning/math500.jsonl", "problem"),
)
OWN = (("harmful", "quick_harmful"), ("benign", "quick_benign"))


def prompts(data_dir: Path, limit: int) -> dict[str, list[str]]:
    """Give four sets of prompts; without a mirror they are halves of the quick sets."""
    found: dict[str, list[str]] = {}
    halves: dict[str, list[str]] = {}
    for name, file in OWN:
        path = ROOT / "benchmarks" / "quick" / f"{file}.jsonl"
        texts = [row["prompt"] for row in rows(path)]
        found[name], halves[f"{name}_too"] = texts[:limit], texts[-limit:]
    mirrored = {
        name: [row[column] for row in rows(data_dir / file)][:limit]
        for name, file, column in MIRRORED
        if (data_dir / file).exists()
    }
    return found | (mirrored if len(mirrored) == len(MIRRORED) else halves)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def write_tasks(folder: Path, sets: dict[str, list[str]], tokens: int) -> list[str]:
    """Write a task file for each set of prompts; return the tasks' names."""
    for name, texts in sets.items():
        data = folder / f"{name}.rows.jsonl"
        data.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
        task = {
            "task": f"timed_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "output_type": "generate_until",
            "test_split": "test",
            "doc_to_text": "{{prompt}}",
            "doc_to_target": "none",
            "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": tokens},
            "metric_list": [
                {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
            ],
            "num_fewshot": 0,
            "metadata": {"version": 1.0},
        }
        (folder / f"timed_{name}.yaml").write_text(yaml.safe_dump(task))
    return [f"timed_{name}" for name in sets]


def timed(*command: str) -> float:
    """Run a command to its end; return its seconds."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return time.perf_counter() - started


def ours(model: Path, tasks: list[Path], out: Path) -> float:
    """Time one run of tasks."""
    names = ",".join(f"lm-eval/{task}" for task in tasks)
    start = "from tseval.cli import main; main()"
    return timed("-c", start, "run", "-m", f"hf/{model}", "-b", names, "--out", str(out))


def theirs(model: Path, folder: Path, tasks: list[str], batch: int, dtype: str, out: Path) -> float:
    """Time lm-eval's command line on all tasks at once."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return timed(
        *("-m", "lm_eval", "run", "--model", "hf", "--device", device),
        *("--model_args", f"pretrained={model},dtype={dtype}", "--tasks", ",".join(tasks)),
        *("--include_path", str(folder), "--batch_size", str(batch), "--apply_chat_template"),
        *("--log_samples", "--output_path", str(out)),
    )


def answers(folder: Path) -> dict[tuple[str, int], str]:
    """Read sample files, wherever below a folder: answers by task and document."""
    found = {}
    for file in folder.rglob("samples_*.jsonl"):
        task = file.name.removeprefix("samples_").rpartition("_")[0]
        for row in rows(file):
            found[task, row["doc_id"]] = row["resps"][0][0].strip()
    return found


def dtype_of(run: Path) -> str:
    """Say in which dtype a run computed."""
    manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return str(manifest["legs"][0]["execution"]["dtype"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder; default: the demo model")
    parser.add_argument("--limit", type=int, default=12, help="prompts of each benchmark")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--batches", type=int, nargs="*", default=[8], help="lm-eval's, beside 1")
    parser.add_argument("--data-dir", type=Path, default=MIRROR)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    model = given.model or demo_folder(lambda phrase, share: None)
    sets = prompts(given.data_dir, given.limit)
    with tempfile.TemporaryDirectory(prefix="tseval-bench-") as place:
        folder = Path(place)
        (folder / "tasks").mkdir()
        tasks = write_tasks(folder / "tasks", sets, given.tokens)
        files = [folder / "tasks" / f"{task}.yaml" for task in tasks]
        print(f"{', '.join(f'{len(texts)} {name}' for name, texts in sets.items())}", flush=True)
        one = ours(model, files, folder / "one")
        seconds = {"tseval, one run": one}
        alone = [ours(model, [file], folder / file.stem) for file in files]
        seconds["tseval, four runs"] = sum(alone)
        dtype = dtype_of(folder / "one")
        for batch in (1, *given.batches):
            name = f"lm-eval, batch {batch}{' (default)' if batch == 1 else ''}"
            out = folder / f"theirs {batch}"
            seconds[name] = theirs(model, folder / "tasks", tasks, batch, dtype, out)
        timed(
            *("-c", "from tseval.cli import main; main()", "export", str(folder / "one")),
            *("--format", "lm-eval", "--out", str(folder / "export")),
        )
        mine, stock = answers(folder / "export"), answers(folder / "theirs 1")
    report(seconds, dtype, given.tokens, mine, stock)


def report(
    seconds: dict[str, float],
    dtype: str,
    tokens: int,
    mine: dict[tuple[str, int], str],
    stock: dict[tuple[str, int], str],
) -> None:
    """Print one row a side."""
    one = seconds["tseval, one run"]
    print(f"answers of at most {tokens} tokens, greedy, {dtype}; everything is in the time\n")
    print(f"{'':28} {'seconds':>8}  {'of one run':>10}")
    for name, took in seconds.items():
        print(f"{name:28} {took:8.1f}  {took / one:9.2f}x")
    same = sum(mine[key] == stock[key] for key in mine.keys() & stock.keys())
    print(f"\n{len(mine)} answers; {same} are letter by letter those of lm-eval at batch 1")


if __name__ == "__main__":
    main()
