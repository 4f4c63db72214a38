"""TRL's SFTTrainer with this package's steps: own micro-batches, losses, checkpoints and looks."""

import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tseval.errors import TrainingError

from .collate import Collator
from .cost import Meter, Shape, reading_flops, training_flops
from .losses import Passes, micro_loss
from .records import Compute, Fit
from .template import Row
from .together import PATIENCE, add_up, agree, processes, rank_of_process

if TYPE_CHECKING:
    from .job import Look

# A checkpoint is made at least this often, so that a kill never costs more.
_SAVE_SECONDS = 600.0
_NOTE_SECONDS = 5.0
# What a checkpoint needs to be gone on from, and a look at it does not.
_RESUMED = ("optimizer.pt", "scheduler.pt", "scaler.pt")


class Course(NamedTuple):
    """What is trained on in which step.

    Attributes:
        steps: Indices of rows, one list an optimiser step.
        epoch: Steps of one pass over all rows.
    """

    steps: list[list[int]]
    epoch: int


def course(rows: int, fit: Fit) -> Course:
    """Lay out all steps of a training; a pass's last step takes what is left.

    The order of a pass depends on the seed and its number alone.
    """
    import math

    import numpy as np

    epoch = math.ceil(rows / fit.batch)
    wanted = math.ceil(fit.epochs * epoch - 1e-9)
    total = wanted if fit.max_steps is None else min(wanted, fit.max_steps)
    steps: list[list[int]] = []
    number = 0
    while len(steps) < total:
        order = np.random.default_rng([fit.seed, number]).permutation(rows).tolist()
        steps += [order[start : start + fit.batch] for start in range(0, rows, fit.batch)]
        number += 1
    return Course(steps[:total], epoch)


class Watch:
    """What goes on beside the steps: saving, looking, telling, counting the cost.

    Args:
        fit: When to save.
        course: The steps.
        meter: Counts the cost.
        spent: Where the cost is noted down for a process that goes on.
        tell: Told of step, all steps and loss.
        look: Looks at the model after a step, or None.
        look_steps: Steps between looks.
        remark: Told what stays on the screen.
    """

    def __init__(
        self,
        fit: Fit,
        course: Course,
        meter: Meter,
        spent: Path,
        tell: Callable[[int, int, float], None],
        look: "Look | None" = None,
        look_steps: int | None = None,
        remark: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.course = course
        self.meter = meter
        self.stopped = ""
        self._every = fit.save_steps or course.epoch
        self._spent = spent
        self.remark = remark
        self._tell = tell
        self._look = look
        self._look_steps = look_steps
        self._saved = self._noted = time.monotonic()

    def looks_at(self, step: int) -> bool:
        """Whether a step is looked at."""
        return bool(self._look and self._look_steps) and step % (self._look_steps or 1) == 0

    def saves_at(self, step: int, *, timed: bool = True) -> bool:
        """Whether a step is saved; ``timed``: also because the last one is long ago."""
        due = timed and time.monotonic() - self._saved > _SAVE_SECONDS
        last = step == len(self.course.steps)
        return last or due or step % self._every == 0 or self.looks_at(step)

    def told(self, step: int, loss: float) -> None:
        """Take notice of a step."""
        self._tell(step, len(self.course.steps), loss)
        if time.monotonic() - self._noted > _NOTE_SECONDS:
            self.note()

    def note(self) -> None:
        """Write down what it has cost until now."""
        self._noted = time.monotonic()
        temporary = self._spent.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.encode(self.meter.read()))
        temporary.replace(self._spent)

    def saved(self, step: int, folder: Path) -> None:
        """Take notice of a checkpoint: forget older ones, and look at it if its turn has come."""
        self._saved = time.monotonic()
        self.note()
        self._prune(folder.parent, step)
        if self.looks_at(step):
            self.stopped = self.look(step, folder)

    def look(self, step: int, folder: Path) -> str:
        """Look at a checkpoint; say why to stop, or ''.

        Draws of random numbers within change nothing of the training.
        """
        import torch

        if self._look is None:
            return ""
        with self.meter.paused(), torch.random.fork_rng():
            return self._look(step, folder)

    def _prune(self, folder: Path, step: int) -> None:
        for old in checkpoints(folder):
            number = step_of(old)
            if number >= step:
                continue
            if not self.looks_at(number):
                shutil.rmtree(old)
                continue
            for name in _RESUMED:
                (old / name).unlink(missing_ok=True)


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint's folder."""
    return int(checkpoint.name.rpartition("-")[2])


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in a folder, in the order of their steps; their state is written last."""
    found = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return sorted(found, key=step_of)


def read_spent(file: Path) -> Compute | None:
    """What earlier processes spent; None where none did, or it cannot be read."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Compute)
    except (OSError, msgspec.DecodeError):
        return None


def arguments(fit: Fit, folder: Path, steps: int, *, on_cpu: bool) -> Any:
    """Arguments of TRL's trainer."""
    from importlib import import_module

    trl: Any = import_module("trl")
    with warnings.catch_warnings():
        # TRL still has the old name of a switch that transformers warns of.
        warnings.simplefilter("ignore", FutureWarning)
        made: Any = trl.SFTConfig(
            output_dir=str(folder),
            per_device_train_batch_size=fit.batch,
            # The steps are laid out beforehand, all as one pass.
            num_train_epochs=1,
            max_steps=steps,
            learning_rate=fit.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=int(-(-fit.warmup * steps // 1)),
            max_grad_norm=fit.clip,
            weight_decay=0.0,
            optim="adamw_torch",
            # Weights keep their own precision and the adapter float32.
            bf16=False,
            fp16=False,
            gradient_checkpointing=False,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=fit.seed,
            use_cpu=on_cpu,
            ddp_timeout=PATIENCE,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
        )
    if made.device.type == "cuda":
        # One process takes one device; more are for `accelerate launch`.
        made._n_gpu = 1
    return made


def make_trainer(
    passes: Passes, rows: Sequence[Row], collator: Collator, watch: Watch, fit: Fit, **base: Any
) -> Any:
    """Build the trainer.

    Args:
        passes: The student.
        rows: What is trained on.
        collator: Makes the micro-batches of a step.
        watch: What goes on beside.
        fit: How it is fitted.
        base: ``args``, ``processing_class`` and ``shape``.
    """
    from importlib import import_module

    import torch
    from datasets import Dataset
    from torch.utils.data import DataLoader
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback

    trl: Any = import_module("trl")
    shape: Shape = base.pop("shape")

    class Stepping(trl.SFTTrainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return DataLoader(
                self.train_dataset, batch_sampler=watch.course.steps, collate_fn=collator
            )

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            passes.student.train()
            while True:
                inputs = self._prepare_inputs(inputs)
                try:
                    sums = self._pass(inputs)
                    break
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    said = str(error)
                # Behind the handler, where the failed pass holds no memory any more.
                inputs = self._smaller(said)
            labelled = inputs["labelled"]
            add_up(self.model, [sums], self.args.world_size)
            if not torch.isfinite(sums[0]):
                raise TrainingError(
                    f"the loss is {float(sums[0])} in step {self.state.global_step + 1}",
                    hint="take a lower --lr, or --dtype float32",
                )
            benign = float(sums[3])
            self._count(inputs, benign)
            scored = {"cross_entropy": labelled - benign, "kl": benign}
            self.parts = {
                name: float(value) / scored[name]
                for name, value in zip(scored, sums[1:3], strict=True)
                if scored[name]
            }
            return sums[0] / labelled

        def _pass(self, inputs: Any) -> Any:
            """Take the gradients of a step; sums of loss, entropy, divergence, benign labels."""
            sums = torch.zeros(4, device=self.args.device)
            for batch in inputs["micro"]:
                passes.recompute(wanted=collator.is_long(batch["input_ids"].numel()))
                loss = micro_loss(passes, batch, fit.kl)
                (loss.total / inputs["labelled"]).backward()
                held = batch["benign"].sum() if fit.kl else torch.zeros_like(loss.total)
                parts = [loss.total.detach(), loss.cross_entropy, loss.divergence, held]
                sums += torch.stack([part.to(sums) for part in parts])
            return sums

        def _smaller(self, said: str) -> Any:
            """Prepare the same step in smaller passes; raise TrainingError if there are none."""
            self.model.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            before, inputs = collator.most_tokens, collator.again()
            if inputs is None:
                raise TrainingError(
                    f"memory ran out on a single row: {' '.join(said.split())[:200]}",
                    hint="a lower --max-tokens drops the longest rows; or take a smaller model",
                )
            watch.remark(
                f"memory ran out in a pass of up to {before} tokens: going on with"
                f" --micro-tokens {collator.most_tokens}, which changes no gradient"
            )
            return inputs

        def _count(self, inputs: Any, benign: float) -> None:
            lengths = inputs["lengths"]
            flops = training_flops(shape, lengths, inputs["labelled"])
            flops += reading_flops(shape, filter(collator.is_long, lengths))
            if fit.kl:
                flops += reading_flops(shape, inputs["benign_lengths"], int(benign))
            self.step_tokens, self.step_labelled = sum(lengths), inputs["labelled"]
            watch.meter.add(tokens=self.step_tokens, flops=flops)

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs:
                logs |= {"tokens": self.step_tokens, "labelled": self.step_labelled, **self.parts}
            super().log(logs, start_time)

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """Leave the card to whoever knows the whole training."""

    class Beside(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # The clocks of several processes differ, and all of them have to save together.
            alone = args.world_size == 1
            control.should_save = watch.saves_at(state.global_step, timed=alone)

        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero and "loss" in state.log_history[-1]:
                watch.told(state.global_step, state.log_history[-1]["loss"])

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                watch.saved(
                    state.global_step, Path(args.output_dir) / f"checkpoint-{state.global_step}"
                )
            watch.stopped = agree(watch.stopped, args.world_size)
            if watch.stopped:
                control.should_training_stop = True

    columns = {
        "input_ids": [list(row.ids) for row in rows],
        "labels": [row.labels for row in rows],
        "weight": [row.weight for row in rows],
        "benign": [row.benign for row in rows],
    }
    with warnings.catch_warnings():
        # Likewise: an old name, used within the library that renamed it.
        warnings.simplefilter("ignore", FutureWarning)
        trainer = Stepping(
            model=passes.student,
            train_dataset=Dataset.from_dict(columns),
            data_collator=collator,
            callbacks=[Beside()],
            **base,
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, as torch says it on a GPU or a CPU."""
    said = str(error)
    return isinstance(error, MemoryError) or any(
        words in said for words in ("out of memory", "can't allocate memory")
    )


def look_again(watch: Watch, checkpoint: Path) -> str:
    """Take the look of a checkpoint that is gone on from; say why to stop, or ''.

    The process before may have been killed before its look had answered. The first of several
    processes looks, and the others, which may have no look at all, learn what it decided.
    """
    step = step_of(checkpoint)
    said = watch.look(step, checkpoint) if rank_of_process() == 0 and watch.looks_at(step) else ""
    return agree(said, processes())
