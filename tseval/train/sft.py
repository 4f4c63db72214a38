"""Fits an adapter on examples: supervised fine-tuning, resumable, with looks on the way."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tseval.errors import TrainingError, TsevalError

from .collate import Collator
from .cost import Meter, shape_of
from .job import Job
from .losses import Passes
from .records import Fit, Fitted, Gathered, StepLog
from .stepping import arguments, is_out_of_memory, make_trainer
from .template import Rows, Script, write_rows
from .together import processes, rank_of_process
from .watch import Watch, checkpoints, course, look_again, read_spent, step_of
from .weights import INSTALL, Student, load_student, require_same, save_errors

_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
# Entries of a step's log that ``StepLog`` has fields for, or that say nothing.
_FIELDS = ("loss", "grad_norm", "learning_rate", "tokens", "labelled")
_UNSAID = ("epoch", "step", "num_tokens")


def fit(gathered: Gathered, job: Job) -> Fitted:
    """Fit an adapter on what was gathered, going on from the newest checkpoint.

    Prompts have no label. A step's loss is one sum over all its labelled positions, divided by
    their number, however they fall into micro-batches; a row's weight is 1 on average over
    its pool. With ``fit.kl`` benign rows are held to the base model instead (forward KL).

    Args:
        gathered: The examples.
        job: Recipe and folder. ``job.look`` is called with the checkpoint's folder after every
            ``job.look_steps`` steps, and again where a process was killed before it had answered.

    Returns:
        The adapter, its log, and what it cost; ``adapter`` is a copy of the last checkpoint's.

    Raises:
        TrainingError: Nothing to train on, memory or disk ran out, the loss is not finite, or a
            library is missing.
        ConfigError: The recipe cannot be trained as it says, or the base model is another one
            than the answers were drawn from.
        BackendError: The model cannot be loaded.

    Source: arXiv 2601.23143, section on training: LoRA, AdamW, cosine, prompts masked.
    Differs: rows that are too long are dropped, not cut; one normaliser a step.
    """
    require_libraries()
    folder, how = job.folder.checkpoints, job.recipe.fit
    spent = folder / "spent.json"
    hint = f"{smaller_passes(how)} and changes no gradient; --max-tokens drops the longest rows"
    with said_plainly(hint):
        folder.mkdir(parents=True, exist_ok=True)
        meter = Meter("fit", read_spent(spent))
        prepared = _prepare(gathered, job)
        watch = Watch(
            how,
            course(len(prepared.rows.rows), how),
            meter,
            spent,
            teller(job),
            job.look,
            job.look_steps,
            job.display.remark,
        )
        stopped = _train(prepared, watch, job)
        last = checkpoints(folder)[-1]
        if rank_of_process() == 0:
            copy_adapter(last, job.folder.adapter)
            watch.note()
    return Fitted(
        adapter=job.folder.adapter,
        step=step_of(last),
        log=read_log(last),
        dropped=prepared.rows.dropped,
        compute=meter.read(),
        stopped=stopped,
    )


class _Prepared(NamedTuple):
    student: Student
    rows: Rows
    passes: Passes
    collator: Collator


def _prepare(gathered: Gathered, job: Job) -> _Prepared:
    """Load the model and write the examples in its own way."""
    recipe, how = job.recipe, job.recipe.fit
    student = load_student(recipe.model, recipe.adapter, how, job.registry, job.display.phase)
    require_same(job.folder.record.subject, student.subject.identity)
    script = Script(student.text, student.format, recipe.thinking.mode, student.stop_ids)
    most = min(how.max_tokens, student.context_length or how.max_tokens)
    rows = write_rows(gathered.examples, script, most)
    if not rows.rows:
        fell = ", ".join(f"{count} {reason}" for reason, count in rows.dropped.items())
        raise TrainingError(
            f"none of {len(gathered.examples)} examples can be trained on"
            + (f" ({fell})" if fell else ""),
            hint="raise --max-tokens, or look at data/train.jsonl",
        )
    passes = Passes(student.model)
    passes.check()
    longest = max(len(row.ids) for row in rows.rows)
    collator = Collator(
        "packed" if passes.pack(longest) else "padded",
        most_rows=how.micro_batch,
        most_tokens=how.micro_tokens,
        pad_id=student.text.pad_id,
        apart=how.kl > 0,
        share=(rank_of_process(), processes()),
    )
    return _Prepared(student, rows, passes, collator)


def _train(prepared: _Prepared, watch: Watch, job: Job) -> str:
    """Take the steps that are left; say why they ended early, or ''."""
    how, folder = job.recipe.fit, job.folder.checkpoints
    found = checkpoints(folder)
    start = found[-1] if found else None
    done = step_of(start) if start else 0
    total = len(watch.course.steps)
    args = arguments(how, folder, total, on_cpu=prepared.student.device == "cpu")
    if start is not None:
        job.display.remark(f"going on from step {done} of {total}")
        stopped = look_again(watch, start)
        if stopped or done >= total:
            return stopped
    trainer = make_trainer(
        prepared.passes,
        prepared.rows.rows,
        prepared.collator,
        watch,
        how,
        args=args,
        processing_class=prepared.student.text.tokenizer,
        shape=shape_of(prepared.student.model),
    )
    trainer.train(resume_from_checkpoint=str(start) if start else None)
    return watch.stopped


def teller(job: Job) -> Any:
    """Give what tells a job's display of step, all steps and loss."""

    def tell(step: int, steps: int, loss: float) -> None:
        job.display.phase(f"training: step {step} of {steps}, loss {loss:.3f}", step / steps)

    return tell


def read_log(checkpoint: Path) -> tuple[StepLog, ...]:
    """Read every step's log, also of the processes before."""
    state = msgspec.json.decode((checkpoint / "trainer_state.json").read_bytes())
    return tuple(
        StepLog(
            step=entry["step"],
            loss=entry["loss"],
            grad_norm=entry.get("grad_norm"),
            learning_rate=entry.get("learning_rate"),
            tokens=int(entry.get("tokens", 0)),
            labelled=int(entry.get("labelled", 0)),
            more={name: value for name, value in entry.items() if name not in (*_FIELDS, *_UNSAID)},
        )
        for entry in state["log_history"]
        if "loss" in entry
    )


def copy_adapter(checkpoint: Path, adapter: Path) -> None:
    """Put an adapter where the result belongs; never half of one."""
    temporary = adapter.with_name(f"{adapter.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name in _ADAPTER:
        shutil.copyfile(checkpoint / name, temporary / name)
    shutil.rmtree(adapter, ignore_errors=True)
    temporary.replace(adapter)


def require_libraries() -> None:
    """Raise TrainingError unless everything that trains can be imported."""
    import logging
    from importlib import import_module

    try:
        for name in ("accelerate", "peft", "trl"):
            import_module(name)
    except ImportError as error:
        raise TrainingError(
            f"training needs the package '{error.name or error}'", hint=INSTALL
        ) from None
    logging.getLogger("trl").setLevel(logging.ERROR)
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def smaller_passes(fit: Fit) -> str:
    """Say what makes passes smaller: ``micro_tokens`` go unread where ``micro_batch`` is given."""
    flag, size = "--micro-tokens", fit.micro_tokens
    if fit.micro_batch is not None:
        flag, size = "--micro-batch", fit.micro_batch
    return f"{flag} {max(size // 2, 1)} makes smaller passes"


@contextmanager
def said_plainly(hint: str) -> Iterator[None]:
    """Turn a machine's failures into errors that say what to do.

    Args:
        hint: What helps where memory ran out.

    Raises:
        TrainingError: Memory or disk ran out.
    """
    failures: tuple[type[Exception], ...] = (MemoryError, RuntimeError, *save_errors())
    try:
        yield
    except TsevalError:
        raise
    except failures as error:
        said = " ".join(str(error).split())
        if getattr(error, "errno", None) == errno.ENOSPC or _is_full(said):
            raise TrainingError(
                f"the disk is full: {said[:200]}",
                hint="free space, then run the same command again: it goes on from its checkpoint",
            ) from error
        if is_out_of_memory(error):
            raise TrainingError(f"memory ran out: {said[:200]}", hint=hint) from error
        raise


def _is_full(said: str) -> bool:
    return "No space left" in said or "PytorchStreamWriter failed writing" in said
