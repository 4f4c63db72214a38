"""What goes on beside steps: their order, saving, looking, telling, counting the cost."""

import shutil
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from .cost import Meter
from .records import Compute, Fit
from .together import agree, processes, rank_of_process

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
    """Whole checkpoints in a folder, in the order of their steps; their state is written last.

    A full disk may have cut that off.
    """
    states = folder.glob("checkpoint-*/trainer_state.json")
    return sorted((path.parent for path in states if _is_whole(path)), key=step_of)


def _is_whole(file: Path) -> bool:
    try:
        msgspec.json.decode(file.read_bytes())
    except msgspec.DecodeError:
        return False
    return True


def read_spent(file: Path) -> Compute | None:
    """What earlier processes spent; None where none did, or it cannot be read."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Compute)
    except (OSError, msgspec.DecodeError):
        return None


def look_again(watch: Watch, checkpoint: Path) -> str:
    """Take the look of a checkpoint that is gone on from; say why to stop, or ''.

    The process before may have been killed before its look had answered. The first of several
    processes looks, and the others, which may have no look at all, learn what it decided.
    """
    step = step_of(checkpoint)
    said = watch.look(step, checkpoint) if rank_of_process() == 0 and watch.looks_at(step) else ""
    return agree(said, processes())


def callback(watch: Watch) -> Any:
    """Make a trainer's callback that lets it save, tell and stop as a watch says."""
    base: Any = import_module("transformers").TrainerCallback

    class Beside(base):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # The clocks of several processes differ, and all of them have to save together.
            alone = args.world_size == 1
            control.should_save = watch.saves_at(state.global_step, timed=alone)

        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            entry = state.log_history[-1]
            if "loss" not in entry:
                return
            for name in [name for name, value in entry.items() if value is None]:
                del entry[name]  # TRL's word for a mean of nothing, which no number stands for
            if state.is_world_process_zero:
                watch.told(state.global_step, entry["loss"])

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                watch.saved(state.global_step, folder)
            watch.stopped = agree(watch.stopped, args.world_size)
            if watch.stopped:
                control.should_training_stop = True

    return Beside()
