"""What an lm-eval task says it will ask, against what it then asks; and what it refuses to do."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.support import lm_eval_toys as toys
from tests.support.sessions import SPEC, finish, session_on
from tseval.errors import CapabilityMissing, ConfigError, DataError
from tseval.lm_eval_tasks import benchmark as module
from tseval.lm_eval_tasks import find_benchmark
from tseval.lm_eval_tasks.benchmark import LmEvalBenchmark
from tseval.lm_eval_tasks.stock import locate, may_run_code
from tseval.roles import Sized, Vetting
from tseval.spec import RunSpec
from tseval.testing import ScriptedBackend
from tseval.types import BenchmarkSize, Sampling


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    import datasets

    cache = tmp_path_factory.mktemp("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(module, "Workers", lambda count: toys.InProcess())


def found(name: str) -> LmEvalBenchmark:
    benchmark = find_benchmark(name)
    assert benchmark is not None
    return benchmark


def asked(folder: Path, name: str, spec: RunSpec, backend: ScriptedBackend) -> Counter[str]:
    """Run a benchmark, and count what it asked."""

    async def work() -> Counter[str]:
        async with session_on(folder, backend, spec=spec) as session:
            session._workers = toys.InProcess()
            await found(name).run(session)
            return session.counts

    return finish(work())


def compared(
    folder: Path, name: str, backend: ScriptedBackend, **more: Any
) -> tuple[BenchmarkSize, Counter[str]]:
    spec = replace(SPEC, benchmarks=(name,), **more)
    return found(name).size(spec), asked(folder / "run", name, spec, backend)


def scripted(**more: Any) -> ScriptedBackend:
    return ScriptedBackend(toys.add, view=toys.VIEW, **more)


def test_a_task_says_what_a_run_then_generates(tmp_path: Path) -> None:
    size, counts = compared(tmp_path, toys.sums_task(tmp_path), scripted(), limit=7)
    assert size == BenchmarkSize(
        prompts=7, independent={"question": 7}, generations=7, answer_tokens=60
    )
    assert counts["generation.made"] == 7
    assert counts["loglikelihood.made"] == 0


def test_repetitions_count_and_rollouts_do_not(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path, count=3, repeats=4)
    size, counts = compared(tmp_path, name, scripted(), rollouts=2)
    assert (size.prompts, size.generations) == (3, 12)
    assert counts["generation.made"] == 12


def test_choices_are_counted_apart_from_rollouts(tmp_path: Path) -> None:
    chooser = toys.Chooser(toys.capital, view=toys.VIEW)
    size, counts = compared(tmp_path, toys.choice_task(tmp_path), chooser)
    assert (size.prompts, size.generations, size.answer_tokens) == (5, 0, None)
    assert size.loglikelihoods == counts["loglikelihood.made"] == 25
    assert counts["generation.made"] == 0


def test_what_two_tasks_of_a_group_ask_alike_is_asked_once(tmp_path: Path) -> None:
    toys.choice_task(tmp_path, "toy_small", count=2)
    toys.choice_task(tmp_path, "toy_large", count=5)
    group = {"group": "toy_group", "task": ["toy_small", "toy_large"]}
    name = toys.write_task(tmp_path / "toy_group.yaml", group)
    chooser = toys.Chooser(toys.capital, view=toys.VIEW)
    size, counts = compared(tmp_path, name, chooser)
    assert (size.prompts, size.independent) == (7, {"question": 5})
    assert size.loglikelihoods == counts["loglikelihood.made"] == 25


def test_a_fixed_number_of_answer_tokens_outranks_the_task(tmp_path: Path) -> None:
    spec = replace(SPEC, sampling=Sampling(answer_tokens=9), answer_tokens_fixed=True)
    assert found(toys.sums_task(tmp_path)).size(spec).answer_tokens == 9


def test_a_task_without_its_data_says_so(tmp_path: Path) -> None:
    nowhere = {"data_files": {"test": str(tmp_path / "gone.jsonl"), "train": "gone"}}
    name = toys.sums_task(tmp_path, dataset_kwargs=nowhere)
    with pytest.raises(DataError, match=r"the task cannot be loaded: .*gone"):
        found(name).size(SPEC)


def test_a_task_that_is_not_measured_says_so(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path, output_type="loglikelihood_rolling", metric_list=[])
    with pytest.raises((CapabilityMissing, DataError)):
        found(name).size(SPEC)


def test_an_lm_eval_task_plays_both_roles(tmp_path: Path) -> None:
    benchmark = found(toys.sums_task(tmp_path))
    assert isinstance(benchmark, Sized)
    assert isinstance(benchmark, Vetting)


@pytest.mark.parametrize("task", ["humaneval", "humaneval_instruct", "mbpp", "cruxeval_output"])
def test_a_stock_task_that_runs_code_is_refused_unless_it_is_confirmed(task: str) -> None:
    benchmark = found(f"lm-eval/{task}")
    with pytest.raises(ConfigError, match=f"{task} runs code that the model wrote") as error:
        benchmark.vet(SPEC)
    assert "--confirm-run-unsafe-code" in error.value.hint
    benchmark.vet(replace(SPEC, unsafe_code=True))


def test_a_file_that_includes_one_which_runs_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base_yaml").write_text("unsafe_code: true\n")
    name = toys.sums_task(tmp_path, include="base_yaml")
    with pytest.raises(ConfigError, match="toy_sums runs code"):
        found(name).vet(SPEC)


def test_a_harmless_task_beside_one_that_runs_code_is_not_refused(tmp_path: Path) -> None:
    toys.sums_task(tmp_path, task="toy_code", unsafe_code=True)
    name = toys.sums_task(tmp_path)
    assert not may_run_code(locate(name.removeprefix("lm-eval/")))
    found(name).vet(SPEC)
    with pytest.raises(ConfigError, match="toy_code runs code"):
        found(f"lm-eval/{tmp_path / 'toy_code.yaml'}").vet(SPEC)


@pytest.mark.parametrize("task", ["gsm8k", "mmlu_pro", "arc_easy"])
def test_nothing_is_loaded_to_see_that_a_stock_task_runs_no_code(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    monkeypatch.setattr(module, "Workers", started.append)
    found(f"lm-eval/{task}").vet(SPEC)
    assert started == []
