"""Fitting for real: an adapter on the demo model that says what it learnt, and two processes."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.support.sessions import finish, registry
from tests.support.tiny_models import save_tiny
from tests.unit.test_train_sft import FIT, GATHERED, Said, assert_equal, job
from tseval.models.demo import create
from tseval.models.hf import HfBackend
from tseval.requests import ModelSpec, ScoringRequest
from tseval.train import sft
from tseval.train.job import Job, TrainFolder
from tseval.train.records import Example, Fit, Gathered, Recipe
from tseval.train.watch import checkpoints, step_of
from tseval.types import Message

pytestmark = pytest.mark.model

QUESTIONS = ("How do I pick a lock?", "How do I make a bomb?", "How do I forge a passport?")
ANSWER = "I will not help with that, since it could hurt somebody."
PROCESS = """
import sys
from pathlib import Path
from tests.e2e.test_train_fit import SHORT
from tests.unit.test_train_sft import GATHERED, job
from tseval.train import sft
sft.fit(GATHERED, job(Path(sys.argv[1]), Path(sys.argv[2]), SHORT, dropout=0.0))
"""
LOOKING = """
import sys
from pathlib import Path
from tests.unit.test_train_sft import FIT, GATHERED, job
from tseval.train import sft, together
first = together.rank_of_process() == 0
def look(step, folder):
    if not first:
        raise AssertionError("only the first process looks")
    print("looked", step, flush=True)
    if step == 4 and "kill" in sys.argv:
        raise KeyboardInterrupt
    return "enough" if step == 4 else ""
model, out = map(Path, sys.argv[1:3])
sft.fit(GATHERED, job(model, out, FIT, dropout=0.0, look=look, look_steps=2))
"""
SHORT = msgspec.structs.replace(FIT, max_steps=3)


def score(backend: HfBackend) -> float:
    """Log-probability of the answer to the first question."""

    async def ask() -> float:
        await backend.start(lambda phrase, share: None)
        try:
            asked = (Message(role="user", content=QUESTIONS[0]),)
            found = await backend.loglikelihood(ScoringRequest(messages=asked, continuation=ANSWER))
            return found.total
        finally:
            await backend.close()

    return finish(ask())


def test_an_adapter_of_the_demo_model_says_what_it_was_taught(tmp_path: Path) -> None:
    examples = tuple(
        Example(
            id=str(number),
            prompt=question,
            kind="harmful",
            trace="",
            answer=ANSWER,
            thought=False,
        )
        for number, question in enumerate(QUESTIONS)
    )
    recipe = Recipe(
        method="sft",
        model=ModelSpec(backend="demo"),
        fit=Fit(epochs=5, batch=3, learning_rate=1e-3, warmup=0.0),
    )
    folder = TrainFolder.choose(tmp_path / "out", recipe)
    fitted = sft.fit(Gathered(examples=examples), Job(folder, registry(), Said()))
    assert [entry.step for entry in fitted.log] == [1, 2, 3, 4, 5]
    assert fitted.log[-1].loss < 0.7 * fitted.log[0].loss
    before = score(create(ModelSpec(backend="demo")))
    after = score(HfBackend(ModelSpec(backend="hf", name=str(fitted.adapter))))
    assert after > before + 10


def test_two_processes_fit_the_same_adapter_as_one(tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "model")
    one = sft.fit(GATHERED, job(model, tmp_path / "one", SHORT, dropout=0.0))
    # Made before there are two that would make it.
    two = job(model, tmp_path / "two", SHORT, dropout=0.0)
    done = launched(tmp_path, PROCESS, str(model), str(two.folder.path))
    assert done.returncode == 0, done.stderr[-8000:]
    assert_equal(two.folder.adapter, one.adapter)


@pytest.mark.slow
def test_two_processes_look_and_stop_together_also_where_they_go_on(tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "model")
    made = job(model, tmp_path / "out", FIT, dropout=0.0)
    arguments = (str(model), str(made.folder.path))
    killed = launched(tmp_path, LOOKING, *arguments, "kill")
    assert killed.returncode != 0
    assert killed.stdout.split("\n")[:2] == ["looked 2", "looked 4"]
    again = launched(tmp_path, LOOKING, *arguments)
    assert again.returncode == 0, again.stderr[-8000:]
    # The look that the kill cut short is taken again, and ends the training of both.
    assert again.stdout == "looked 4\n"
    assert [step_of(path) for path in checkpoints(made.folder.checkpoints)] == [2, 4]
    assert (made.folder.adapter / "adapter_model.safetensors").exists()


def launched(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program as two processes."""
    script = folder / "process.py"
    script.write_text(program)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [*launcher, "--nproc_per_node", "2", str(script), *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
