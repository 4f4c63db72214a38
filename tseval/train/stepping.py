"""TRL's SFTTrainer with this package's steps: own micro-batches and losses."""

import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tseval.errors import TrainingError

from .collate import Collator
from .cost import Shape, reading_flops, training_flops
from .losses import Passes, micro_loss
from .records import Fit
from .template import Row
from .together import PATIENCE, add_up
from .watch import Watch, callback


def arguments(fit: Fit, folder: Path, steps: int, *, on_cpu: bool) -> Any:
    """Arguments of TRL's trainer."""
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


class Steps:
    """Takes a student's optimiser steps, each in as many passes as fit into memory.

    Args:
        passes: The student.
        collator: Makes the micro-batches of a step.
        watch: Is told of smaller passes, and counts the cost.
        fit: The divergence's weight.
        shape: Of the student; for FLOPs.
    """

    def __init__(
        self, passes: Passes, collator: Collator, watch: Watch, fit: Fit, shape: Shape
    ) -> None:
        self._passes = passes
        self._collator = collator
        self._watch = watch
        self._kl = fit.kl
        self._shape = shape
        self._logged: dict[str, float] = {}

    def take(self, trainer: Any, inputs: Any) -> Any:
        """Take the gradients of a step; the loss a label.

        Raises:
            TrainingError: The loss is not finite, or a single row needs more than all memory.
        """
        import torch

        self._passes.student.train()
        inputs, sums = self._as_it_fits(trainer, inputs)
        labelled = inputs["labelled"]
        add_up(trainer.model, [sums], trainer.args.world_size)
        if not torch.isfinite(sums[0]):
            raise TrainingError(
                f"the loss is {float(sums[0])} in step {trainer.state.global_step + 1}",
                hint="take a lower --lr, or --dtype float32",
            )
        benign = float(sums[3])
        self._count(inputs, benign)
        scored = {"cross_entropy": labelled - benign, "kl": benign}
        parts = {
            name: float(value) / scored[name]
            for name, value in zip(scored, sums[1:3], strict=True)
            if scored[name]
        }
        self._logged = {"tokens": sum(inputs["lengths"]), "labelled": labelled, **parts}
        return sums[0] / labelled

    def logged(self) -> dict[str, float]:
        """What stands beside the loss in the log of the last step."""
        return self._logged

    def _as_it_fits(self, trainer: Any, inputs: Any) -> tuple[Any, Any]:
        """Pass over a step, in smaller passes whenever memory runs out; its inputs and sums."""
        while True:
            inputs = trainer._prepare_inputs(inputs)
            try:
                return inputs, self._pass(inputs, trainer.args.device)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                said = str(error)
            # Behind the handler, where the failed pass holds no memory any more.
            trainer.model.zero_grad()
            inputs = self._smaller(said)

    def _pass(self, inputs: Any, device: Any) -> Any:
        """Take the gradients of a step; sums of loss, entropy, divergence, benign labels."""
        import torch

        sums = torch.zeros(4, device=device)
        for batch in inputs["micro"]:
            self._passes.recompute(wanted=self._collator.is_long(batch["input_ids"].numel()))
            loss = micro_loss(self._passes, batch, self._kl)
            (loss.total / inputs["labelled"]).backward()
            held = batch["benign"].sum() if self._kl else torch.zeros_like(loss.total)
            parts = [loss.total.detach(), loss.cross_entropy, loss.divergence, held]
            sums += torch.stack([part.to(sums) for part in parts])
        return sums

    def _smaller(self, said: str) -> Any:
        """Prepare the same step in smaller passes; raise TrainingError if there are none."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        before, inputs = self._collator.most_tokens, self._collator.again()
        if inputs is None:
            raise TrainingError(
                f"memory ran out on a single row: {' '.join(said.split())[:200]}",
                hint="a lower --max-tokens drops the longest rows; or take a smaller model",
            )
        self._watch.remark(
            f"memory ran out in a pass of up to {before} tokens: going on with"
            f" --micro-tokens {self._collator.most_tokens}, which changes no gradient"
        )
        return inputs

    def _count(self, inputs: Any, benign: float) -> None:
        lengths = inputs["lengths"]
        flops = training_flops(self._shape, lengths, inputs["labelled"])
        flops += reading_flops(self._shape, filter(self._collator.is_long, lengths))
        if self._kl:
            flops += reading_flops(self._shape, inputs["benign_lengths"], int(benign))
        self._watch.meter.add(tokens=sum(lengths), flops=flops)


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
    from datasets import Dataset
    from torch.utils.data import DataLoader
    from transformers.trainer_callback import PrinterCallback

    trl: Any = import_module("trl")
    steps = Steps(passes, collator, watch, fit, base.pop("shape"))

    class Stepping(trl.SFTTrainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return DataLoader(
                self.train_dataset, batch_sampler=watch.course.steps, collate_fn=collator
            )

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            return steps.take(self, inputs)

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            super().log({**logs, **steps.logged()} if "loss" in logs else logs, start_time)

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """Leave the card to whoever knows the whole training."""

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
            callbacks=[callback(watch)],
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
