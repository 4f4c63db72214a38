"""Time a training step on rows of mixed lengths, beside TRL's SFTTrainer as it comes.

Both fit the same adapter (rank 32, all linear layers) on the same rows of the demo model, eight a
step, prompts masked; each in a process of its own, so that its peak of memory is its own. The
plain configuration pads eight rows to the longest and keeps activations. Aim: 1.5 times its speed.

    python bench/train_step.py
    python bench/train_step.py --steps 6 --longest 1024 --model FOLDER
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH = 8
WAYS = ("tseval", "padded")
NAMES = {"tseval": "tseval", "padded": "SFTTrainer, padded"}


def lengths(count: int, longest: int) -> list[int]:
    """Completion lengths as reasoning models write them: most short, some many times as long."""
    import numpy as np

    drawn = np.random.default_rng(0).lognormal(mean=np.log(longest / 8), sigma=0.9, size=count)
    return [int(n) for n in np.clip(drawn, 16, longest - 24)]


def measure(way: str, spec: str, steps: int, longest: int) -> dict[str, float]:
    """Take some steps in this process, the first of them not counted."""
    from transformers import TrainerCallback

    from tseval.plugins import load_registry
    from tseval.requests import ModelSpec
    from tseval.train.records import Adapter, Fit
    from tseval.train.template import Row
    from tseval.train.watch import course
    from tseval.train.weights import load_student

    fit = Fit(batch=BATCH, max_steps=steps + 1, learning_rate=1e-4)
    registry = load_registry()
    named = ModelSpec(backend="hf", name=spec) if spec else ModelSpec(backend="demo")
    student = load_student(named, Adapter(), fit, registry, lambda *_: None)
    rows = [
        Row(example=str(n), ids=tuple(range(100, 124 + length)), prompt=24)
        for n, length in enumerate(lengths(BATCH * (steps + 1), longest))
    ]
    ordered = [[rows[index] for index in step] for step in course(len(rows), fit).steps]
    ends: list[float] = []
    worked: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            ends.append(time.perf_counter())
            worked.append(time.process_time())

    make = ours if way == "tseval" else theirs
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(student, ordered, fit, Path(folder))
        trainer.add_callback(Clock())
        trainer.train()
    return {
        "seconds": ends[-1] - ends[0],
        "cpu_seconds": worked[-1] - worked[0],
        "tokens": sum(len(row.ids) for step in ordered[1:] for row in step),
        "padded": sum(len(step) * max(len(row.ids) for row in step) for step in ordered[1:]),
        "loss": trainer.state.log_history[0]["loss"],
        "megabytes": _peak_megabytes(before),
    }


def ours(student: Any, steps: list[list[Any]], fit: Any, folder: Path) -> Any:
    """The trainer of this package, without its checkpoints."""
    from tseval.train.collate import Collator
    from tseval.train.cost import Meter, shape_of
    from tseval.train.losses import Passes
    from tseval.train.stepping import arguments, make_trainer
    from tseval.train.watch import Course, Watch

    rows = [row for step in steps for row in step]
    numbered = [list(range(n, n + BATCH)) for n in range(0, len(rows), BATCH)]
    passes = Passes(student.model)
    passes.check()
    longest = max(len(row.ids) for row in rows)
    collator = Collator(
        "packed" if passes.pack(longest) else "padded",
        most_rows=None,
        most_tokens=fit.micro_tokens,
        pad_id=student.text.pad_id,
    )
    steps_of = Course(numbered, len(numbered))
    watch = Watch(fit, steps_of, Meter("fit"), folder / "spent.json", lambda *_: None)
    watch.saves_at = lambda step, **_: False  # type: ignore[method-assign]
    return make_trainer(
        passes,
        rows,
        collator,
        watch,
        fit,
        args=arguments(fit, folder, len(numbered), on_cpu=student.device == "cpu"),
        processing_class=student.text.tokenizer,
        shape=shape_of(student.model),
    )


def theirs(student: Any, steps: list[list[Any]], fit: Any, folder: Path) -> Any:
    """TRL's trainer on the same rows in the same order."""
    from importlib import import_module

    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback

    trl: Any = import_module("trl")
    rows = [row for step in steps for row in step]
    columns = {
        "input_ids": [list(row.ids) for row in rows],
        "labels": [row.labels for row in rows],
    }
    trainer = trl.SFTTrainer(
        model=student.model,
        args=trl.SFTConfig(
            output_dir=str(folder),
            per_device_train_batch_size=BATCH,
            max_steps=len(steps),
            learning_rate=fit.learning_rate,
            train_sampling_strategy="sequential",
            gradient_checkpointing=False,
            bf16=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=student.device == "cpu",
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=Dataset.from_dict(columns),
        processing_class=student.text.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _peak_megabytes(before: int) -> float:
    """What the steps held at most: on a GPU what torch allocated, else growth of the process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Measure each way in a process of its own and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="", help="folder or hub id; default: the demo model")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--way", choices=WAYS, help="measure one way and print it as JSON")
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given.way, given.model, given.steps, given.longest)))
        return
    command = [sys.executable, __file__, "--model", given.model, "--steps", str(given.steps)]
    command += ["--longest", str(given.longest)]
    found: dict[str, dict[str, float]] = {}
    for way in WAYS:
        done = subprocess.run(
            [*command, "--way", way], check=True, stdout=subprocess.PIPE, text=True
        )
        found[way] = json.loads(done.stdout.splitlines()[-1])
    first = found["padded"]
    print(
        f"{given.steps} steps of {BATCH} rows, {first['tokens']:.0f} tokens"
        f" ({first['tokens'] / first['padded']:.0%} of what padding makes of them)"
    )
    print(
        f"{'':20}{'tokens/s':>10}{'ratio':>8}{'a CPU s':>9}{'ratio':>8}"
        f"{'peak MB':>10}{'ratio':>8}{'first loss':>12}"
    )
    for way, each in found.items():
        speed, base = (one["tokens"] / one["seconds"] for one in (each, first))
        work, usual = (one["tokens"] / one["cpu_seconds"] for one in (each, first))
        held = each["megabytes"]
        print(
            f"{NAMES[way]:20}{speed:10.0f}{speed / base:8.2f}{work:9.0f}{work / usual:8.2f}"
            f"{held:10.0f}{held / first['megabytes']:8.2f}{each['loss']:12.4f}"
        )


if __name__ == "__main__":
    main()
