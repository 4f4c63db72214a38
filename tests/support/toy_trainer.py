"""A trainer whose adapters are a few bytes, and the scripted models that they stand for."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.sessions import registry
from tseval.data import load_rows
from tseval.hookspecs import Register, hookimpl
from tseval.plugins import Registry, load_registry
from tseval.requests import ModelSpec
from tseval.roles import TrainerCard
from tseval.runner import run
from tseval.scripts import Call
from tseval.session import Session
from tseval.testing import ScriptedBackend
from tseval.train import flow, panel_runs, weights
from tseval.train.job import Job
from tseval.train.records import Compute, Example, Fitted, Gathered, Panel, Recipe, StepLog

REFUSAL = "I'm sorry, but I can't help with that."
MODEL = ModelSpec(backend="scripted", name="mixed")
WEIGHTS = "adapter_model.safetensors"


@cache
def benign_prompts() -> frozenset[str]:
    """Benign prompts of the quick suite."""
    card = registry().benchmarks["quick_benign"].card
    return frozenset(sample.prompt for sample in load_rows(card).samples)


def refusing(harmful: float, benign: float, call: Call) -> str:
    """Refuse these shares of harmful and of benign prompts."""
    share = benign if call.prompt in benign_prompts() else harmful
    refuses = call.share("refuses") < share
    return REFUSAL if refuses else "Sure: take two of them and mix them well."


def learning(step: int, call: Call) -> str:
    """Refuse a quarter more of what is harmful with every step, and nothing else."""
    return refusing(step / 4, 0.0, call)


class Toy:
    """Gathers an answer a prompt, and takes steps that cost nothing.

    Attributes:
        steps: Of a fit.
        fits, gathers: How often each was begun.
        evaluated: What it was told not to train on.
        micro_tokens: The limit of its last fit.
        looked: Steps that were looked at, of all fits.
        break_at: Called at the beginning of 'gather' and 'fit' and after each step; may raise.
    """

    def __init__(self, steps: int = 4) -> None:
        self.card = TrainerCard(
            name="toy",
            summary="costs nothing",
            takes=("harmful", "benign"),
            options={"colour": "x"},
            unread=("fit.kl", "sampling.top_k"),
        )
        self.steps = steps
        self.fits = self.gathers = 0
        self.evaluated: tuple[str, ...] = ()
        self.micro_tokens = 0
        self.looked: list[int] = []
        self.break_at: Callable[[str], None] = lambda place: None

    async def gather(self, session: Session, job: Job) -> Gathered:
        self.gathers += 1
        self.evaluated = job.evaluated
        examples = []
        for number in range(6):
            prompt = f"Question {number}: what is it?"
            rollout = await session.generate(prompt, stream="train")
            self.break_at("gather")
            examples.append(
                Example(
                    id=str(number),
                    prompt=prompt,
                    kind="harmful",
                    trace="",
                    answer=rollout.answer or "",
                    thought=False,
                )
            )
        return Gathered(examples=tuple(examples), prompts={"harmful": 6}, tokens=60)

    def fit(self, gathered: Gathered, job: Job) -> Fitted:
        self.fits += 1
        self.micro_tokens = job.recipe.fit.micro_tokens
        self.break_at("fit")
        stopped, step = "", 0
        for step in range(1, self.steps + 1):
            folder = job.folder.checkpoints / f"checkpoint-{step}"
            save_adapter(folder, step)
            if job.look and job.look_steps and step % job.look_steps == 0:
                self.looked.append(step)
                stopped = job.look(step, folder)
            self.break_at(f"step {step}")
            if stopped:
                break
        save_adapter(job.folder.adapter, step)
        return Fitted(
            adapter=job.folder.adapter,
            step=step,
            log=tuple(StepLog(step=n, loss=1.0 / n) for n in range(1, step + 1)),
            compute=Compute(phase="fit", seconds=1.0, tokens=100, flops=2e12),
            stopped=stopped,
        )


def save_adapter(folder: Path, step: int) -> None:
    """Write an adapter; its weights are the number of its step."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_text(str(step))
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "base"}))


class Place:
    """Where a toy is trained: a registry that knows it, and scripted models for its adapters.

    Attributes:
        toy: The trainer.
        registry: Knows it.
        measured: Names of the panel's runs that asked a model, in order.
        fail: Called with the name of each; may raise.
    """

    def __init__(self, toy: Toy, script: Callable[[int, Call], str] = learning) -> None:
        self.toy = toy
        self.script = script
        self.measured: list[str] = []
        self.fail: Callable[[str], None] = lambda name: None

        class Plugin:
            @hookimpl
            def register_trainers(self, register: Register) -> None:
                register(toy)

        self.registry: Registry = load_registry(extra=[Plugin()])
        self.drawn = ScriptedBackend()

    async def run(self, spec: Any, registry: Any, display: Any, *, out: Path) -> Any:
        """Run a panel on the scripted model that its adapter stands for."""
        self.measured.append(out.name)
        self.fail(out.name)
        weights = Path(spec.model.name) / WEIGHTS
        step = int(weights.read_text()) if weights.exists() else 0
        backend = ScriptedBackend(lambda call: self.script(step, call), name=f"step-{step}")
        return await run(spec, registry, display, out=out, backend=backend)


def place_for(
    monkeypatch: pytest.MonkeyPatch, toy: Toy, script: Callable[[int, Call], str] = learning
) -> Place:
    """Let trainings by the toy run without any weights."""
    place = Place(toy, script)
    monkeypatch.setattr(panel_runs, "run", place.run)
    monkeypatch.setattr(weights, "base_of", lambda spec, report: None)
    monkeypatch.setattr(weights, "identity_of", lambda spec, report: {})
    return place


def toy_recipe(**more: Any) -> Recipe:
    """A recipe for the toy; ``panel`` fields may be given by name."""
    fields = Panel.__struct_fields__
    panel = {name: more.pop(name) for name in list(more) if name in fields}
    return Recipe(
        method="toy",
        model=MODEL,
        judges=("refusal-rules",),
        panel=Panel(**panel),
        **more,
    )


def train_toy(place: Place, out: Path, display: Any, recipe: Recipe, **more: Any) -> Any:
    """Train it; the answers are drawn from a scripted model."""
    return flow.train(recipe, place.registry, display, out=out, backend=place.drawn, **more)
