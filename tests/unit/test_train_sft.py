"""Fitting an adapter: what moves, what a kill and a look change, and what goes wrong plainly."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.sessions import registry
from tests.support.tiny_models import save_tiny, tiny_model
from tseval.errors import ConfigError, TrainingError
from tseval.models.hf.load import resolve
from tseval.requests import ModelSpec, Subject
from tseval.train import sft, stepping, watch, weights
from tseval.train.job import Job, TrainFolder
from tseval.train.losses import StepLoss
from tseval.train.records import Adapter, Example, Fit, Fitted, Gathered, Recipe

ROWS = 7
GATHERED = Gathered(
    examples=tuple(
        Example(
            id=str(number),
            prompt="How" + "?" * number,
            kind="benign" if number % 3 == 0 else "harmful",
            trace="",
            answer="No, " * (1 + 5 * number % 4),
            thought=False,
        )
        for number in range(ROWS)
    )
)
# Two passes of three steps: 3, 3 and 1 rows.
FIT = Fit(epochs=2, batch=3, learning_rate=1e-2, dtype="float32", micro_tokens=64, kl=0.5)


class Said:
    """A display that keeps what it was told."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.remarks: list[str] = []

    def phase(self, phrase: str, share: float | None) -> None:
        self.phases.append(phrase)

    def tick(self, session: object) -> None:
        """Nothing is shown."""

    def remark(self, message: str) -> None:
        self.remarks.append(message)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("model") / "tiny")


def job(model: Path, out: Path, fit: Fit = FIT, *, dropout: float = 0.05, **more: Any) -> Job:
    recipe = Recipe(
        method="sft",
        model=ModelSpec(backend="hf", name=str(model)),
        adapter=Adapter(rank=2, dropout=dropout),
        fit=fit,
    )
    folder = TrainFolder.choose(out, recipe)
    if not (out / "train.json").exists():
        # Where several processes train, one has made it before: they must not write it at once.
        folder.save()
    return Job(folder, registry(), Said(), **more)


def tensors(adapter: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(adapter / "adapter_model.safetensors"))


def assert_equal(one: Path, other: Path) -> None:
    import torch

    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-5, atol=1e-7, msg=name)


class Undisturbed:
    """A fit that nobody disturbed, with a look after every second step."""

    def __init__(self, model: Path, out: Path) -> None:
        self.looks: list[tuple[int, bool]] = []
        self.job = job(model, out, look=self.look, look_steps=2)
        self.fitted: Fitted = sft.fit(GATHERED, self.job)

    def look(self, step: int, folder: Path) -> str:
        import torch

        torch.rand(3)  # a look may draw; the training must not notice
        self.looks.append((step, (folder / "adapter_model.safetensors").is_file()))
        return ""


@pytest.fixture(scope="module")
def undisturbed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(model, tmp_path_factory.mktemp("undisturbed") / "out")


def test_a_fit_leaves_an_adapter_and_a_log_of_every_step(undisturbed: Undisturbed) -> None:
    fitted = undisturbed.fitted
    assert fitted.step == 6
    assert [entry.step for entry in fitted.log] == [1, 2, 3, 4, 5, 6]
    assert all(entry.grad_norm and entry.learning_rate is not None for entry in fitted.log)
    assert fitted.log[-1].more["cross_entropy"] < fitted.log[0].more["cross_entropy"]
    assert sorted(path.name for path in fitted.adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert resolve(ModelSpec(backend="hf", name=str(fitted.adapter))).adapter is not None
    assert not fitted.stopped
    assert not fitted.dropped


def test_the_log_counts_the_tokens_and_labels_of_each_step(undisturbed: Undisturbed) -> None:
    # ChatML of one byte a token: 28 around the prompt, and an end behind the answer.
    rows = [
        (len(f"<user\n{e.prompt}>\n<assistant\n"), len(e.answer.strip()) + 1)
        for e in GATHERED.examples
    ]
    log = undisturbed.fitted.log
    for number in (0, 3):
        of_a_pass = log[number : number + 3]
        assert sum(entry.labelled for entry in of_a_pass) == sum(answer for _, answer in rows)
        assert sum(entry.tokens for entry in of_a_pass) == sum(map(sum, rows))
    assert undisturbed.fitted.compute.tokens == 2 * sum(map(sum, rows))
    assert undisturbed.fitted.compute.flops > 0


def test_benign_rows_are_held_to_the_base_and_logged_apart(undisturbed: Undisturbed) -> None:
    first = undisturbed.fitted.log[0].more
    assert first["cross_entropy"] > 1
    # The adapter begins as no change at all.
    assert first["kl"] == pytest.approx(0, abs=1e-5)


def test_looks_are_taken_when_due_and_their_checkpoints_kept(undisturbed: Undisturbed) -> None:
    assert undisturbed.looks == [(2, True), (4, True), (6, True)]
    kept = watch.checkpoints(undisturbed.job.folder.checkpoints)
    assert [watch.step_of(path) for path in kept] == [2, 4, 6]
    assert [(path / "optimizer.pt").exists() for path in kept] == [False, False, True]


def test_a_checkpoint_that_a_full_disk_cut_off_is_not_gone_on_from(tmp_path: Path) -> None:
    for step, state in ((10, '{"global_step": 10}'), (20, '{"global_step": 2')):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(state)
    assert [watch.step_of(path) for path in watch.checkpoints(tmp_path)] == [10]


def test_every_parameter_of_the_adapter_moves_and_nothing_else(model: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    made = job(model, tmp_path / "out", Fit(max_steps=3, batch=3, learning_rate=0.1, warmup=0))
    student = weights.load_student(
        made.recipe.model, made.recipe.adapter, made.recipe.fit, registry(), made.display.phase
    )
    before = {name: p.detach().clone() for name, p in student.model.named_parameters()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft, "load_student", lambda *_: student)
        sft.fit(GATHERED, made)
    for name, parameter in student.model.named_parameters():
        assert torch.equal(parameter, before[name]) is ("lora" not in name), name
        assert parameter.dtype == (torch.float32 if "lora" in name else before[name].dtype)
    ids = torch.arange(9)[None]
    with torch.no_grad(), student.model.disable_adapter():
        found = student.model.eval()(ids).logits
        dtype = student.model.dtype
        bare = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
        assert torch.equal(found, bare.eval()(ids).logits)


def test_a_killed_fit_goes_on_to_the_very_same_adapter(
    model: Path, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    looks: list[int] = []

    def killed(step: int, folder: Path) -> str:
        looks.append(step)
        if step == 4 and looks.count(4) == 1:
            raise KeyboardInterrupt
        return ""

    made = job(model, tmp_path / "out", look=killed, look_steps=2)
    with pytest.raises(KeyboardInterrupt):
        sft.fit(GATHERED, made)
    assert not made.folder.adapter.exists()
    # A checkpoint that was never finished is no place to go on from.
    (made.folder.checkpoints / "checkpoint-5").mkdir()
    fitted = sft.fit(GATHERED, made)
    # The look that the kill cut short is taken again.
    assert looks == [2, 4, 4, 6]
    assert "going on from step 4 of 6" in made.display.remarks
    assert [entry.loss for entry in fitted.log] == pytest.approx(
        [entry.loss for entry in undisturbed.fitted.log], rel=1e-5
    )
    assert_equal(fitted.adapter, undisturbed.fitted.adapter)
    assert fitted.compute.tokens == undisturbed.fitted.compute.tokens


def test_a_look_that_says_so_ends_the_fit_for_good(model: Path, tmp_path: Path) -> None:
    made = job(model, tmp_path / "out", look=lambda step, _: "refuses too much", look_steps=2)
    for _ in range(2):
        fitted = sft.fit(GATHERED, made)
        assert (fitted.step, fitted.stopped) == (2, "refuses too much")
        assert len(fitted.log) == 2


def test_micro_batches_of_one_row_and_of_all_fit_the_same_adapter(
    model: Path, tmp_path: Path
) -> None:
    fit = msgspec.structs.replace(FIT, max_steps=3)
    adapters = [
        sft.fit(
            GATHERED,
            job(
                model,
                tmp_path / str(rows),
                msgspec.structs.replace(fit, micro_batch=rows),
                dropout=0.0,
            ),
        ).adapter
        for rows in (1, 8)
    ]
    assert_equal(*adapters)


def test_a_pass_that_does_not_fit_memory_is_made_smaller(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    fit = msgspec.structs.replace(FIT, max_steps=2, micro_tokens=4096)
    expected = sft.fit(GATHERED, job(model, tmp_path / "1", fit, dropout=0.0)).adapter
    real = stepping.micro_loss

    def small_memory(passes: Any, batch: Any, kl: float) -> StepLoss:
        if batch["input_ids"].numel() > 60:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(passes, batch, kl)

    monkeypatch.setattr(stepping, "micro_loss", small_memory)
    made = job(model, tmp_path / "2", fit, dropout=0.0)
    assert_equal(sft.fit(GATHERED, made).adapter, expected)
    assert any("changes no gradient" in remark for remark in made.display.remarks)


Failure = Callable[[Any, Any, float], StepLoss]


def raising(error: Exception) -> Failure:
    def fail(passes: Any, batch: Any, kl: float) -> StepLoss:
        raise error

    return fail


def not_a_number(passes: Any, batch: Any, kl: float) -> StepLoss:
    import torch

    broken = sum(p.sum() for p in passes.student.parameters() if p.requires_grad) * torch.nan
    return StepLoss(broken, torch.zeros(()), torch.zeros(()))


@pytest.mark.parametrize(
    ("failure", "message", "hint"),
    [
        (
            raising(RuntimeError("[enforce fail] can't allocate memory: 9 bytes")),
            "memory ran out on a single row: ",
            "--max-tokens",
        ),
        (
            raising(OSError(errno.ENOSPC, "No space left on device")),
            "the disk is full: ",
            "free space",
        ),
        (not_a_number, "the loss is nan in step 1", "--lr"),
    ],
)
def test_a_machine_that_gives_up_is_told_of_plainly(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Failure,
    message: str,
    hint: str,
) -> None:
    monkeypatch.setattr(stepping, "micro_loss", failure)
    with pytest.raises(TrainingError) as caught:
        sft.fit(GATHERED, job(model, tmp_path / "out"))
    assert caught.value.message.startswith(message)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("fit", "flag"),
    [
        (FIT, "--micro-tokens 32 "),
        (msgspec.structs.replace(FIT, micro_batch=2), "--micro-batch 1 "),
    ],
)
def test_where_memory_runs_out_beside_a_step_the_flag_that_is_read_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fit: Fit, flag: str
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("out of memory")

    monkeypatch.setattr(sft, "_train", fail)
    with pytest.raises(TrainingError) as caught:
        sft.fit(GATHERED, job(model, tmp_path / "out", fit))
    assert caught.value.hint == (
        f"{flag}makes smaller passes and changes no gradient; --max-tokens drops the longest rows"
    )


def test_a_disk_that_fills_up_under_a_checkpoint_is_told_of_plainly(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel
    from safetensors import SafetensorError

    def fail(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(PeftModel, "save_pretrained", fail)
    with pytest.raises(TrainingError) as caught:
        sft.fit(GATHERED, job(model, tmp_path / "out"))
    assert caught.value.message == (
        "the disk is full: I/O error: No space left on device (os error 28)"
    )
    assert caught.value.hint.startswith("free space, then run the same command again")


def test_nothing_to_train_on_says_why(model: Path, tmp_path: Path) -> None:
    made = job(model, tmp_path / "out", Fit(max_tokens=10))
    with pytest.raises(TrainingError, match=r"none of 7 examples .*\(7 longer than 10 tokens\)"):
        sft.fit(GATHERED, made)


def test_a_base_that_was_swapped_under_its_name_is_not_fitted(model: Path, tmp_path: Path) -> None:
    made = job(model, tmp_path / "out")
    found = weights.identity_of(made.recipe.model, made.display.phase)
    assert "model.safetensors" in found
    made.folder.record.subject = Subject(name="tiny", identity={**found, "model.safetensors": "x"})
    with pytest.raises(ConfigError) as caught:
        sft.fit(GATHERED, made)
    assert "not the one that this training began with" in caught.value.message
    assert "(chat_template, model.safetensors, tokenizer)" in caught.value.message
    assert not watch.checkpoints(made.folder.checkpoints)


def test_what_an_engine_adds_to_an_identity_makes_no_other_model() -> None:
    began = Subject(name="m", identity={"model": "m", "commit": "1", "quantization": "fp8"})
    weights.require_same(began, {"model": "m", "commit": "1"})
    weights.require_same(None, {"model": "m", "commit": "2"})
    with pytest.raises(ConfigError, match=r"\(commit\)"):
        weights.require_same(began, {"model": "m", "commit": "2"})


def test_a_served_model_and_an_adapter_cannot_be_trained(undisturbed: Undisturbed) -> None:
    served = ModelSpec(backend="openai", name="m", base_url="http://localhost:1")
    with pytest.raises(ConfigError, match="no weights that could be trained"):
        weights.base_of(served, lambda phrase, share: None)
    adapted = ModelSpec(backend="hf", name=str(undisturbed.fitted.adapter))
    with pytest.raises(ConfigError, match="is an adapter already"):
        weights.base_of(adapted, lambda phrase, share: None)


@pytest.mark.parametrize(
    ("targets", "message"),
    [("no_such_layer", "no_such_layer"), ("lm_head q_proj", "head cannot have an adapter")],
)
def test_layers_that_cannot_have_an_adapter_are_named(targets: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        weights.with_adapter(tiny_model("llama"), Adapter(targets=targets), 0)


def test_a_state_space_model_has_an_adapter_where_fused_kernels_call_it() -> None:
    import torch

    model = weights.with_adapter(tiny_model("stateful"), Adapter(rank=2), 0)
    adapted = {name.split(".lora_")[0] for name, _ in model.named_parameters() if "lora_" in name}
    assert len(adapted) == 3
    assert {name.rpartition(".")[2] for name in adapted} == {"in_proj"}
    model.train()
    model(input_ids=torch.arange(6)[None], labels=torch.arange(6)[None]).loss.backward()
    ends = [p for name, p in model.named_parameters() if "lora_B" in name]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in ends)


@pytest.mark.parametrize("targets", ["default", "in_proj out_proj"])
def test_targets_that_a_state_space_model_cannot_have_name_those_that_it_can(targets: str) -> None:
    with pytest.raises(TrainingError, match="no adapter fits the model") as failure:
        weights.with_adapter(tiny_model("stateful"), Adapter(targets=targets), 0)
    said = str(failure.value).splitlines()
    assert len(said) == 2
    assert said[1].startswith("hint: --lora-targets takes 'all-linear'")
    assert said[1].endswith("of: in_proj")


def test_an_adapter_begins_by_its_seed_alone() -> None:
    import torch

    made = [weights.with_adapter(tiny_model("llama"), Adapter(), seed) for seed in (1, 1, 2)]
    first, again, other = (dict(each.named_parameters()) for each in made)
    changed = [name for name in first if not torch.equal(first[name], other[name])]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert changed
    assert all("lora_A" in name for name in changed)


def test_every_pass_has_each_row_once_in_an_order_of_its_own() -> None:
    laid = watch.course(10, Fit(epochs=3, batch=4))
    assert (laid.epoch, len(laid.steps)) == (3, 9)
    passes = [[row for step in laid.steps[n : n + 3] for row in step] for n in (0, 3, 6)]
    assert all(sorted(each) == list(range(10)) for each in passes)
    assert passes[0] != passes[1] != passes[2]
    assert laid == watch.course(10, Fit(epochs=3, batch=4))
    assert laid != watch.course(10, Fit(epochs=3, batch=4, seed=1))
    assert watch.course(10, Fit(epochs=3, batch=4, max_steps=5)).steps == laid.steps[:5]
    assert watch.course(10, Fit(epochs=0.5, batch=4)).steps == laid.steps[:2]
