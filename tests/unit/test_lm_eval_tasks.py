"""lm-eval's tasks as benchmarks, through the whole pipeline on scripted models."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support import lm_eval_toys as toys
from tests.support.sessions import SPEC, finish, session_on
from tseval.errors import (
    BackendUnavailable,
    CapabilityMissing,
    ConfigError,
    DataError,
    RequestFailed,
    TsevalError,
    UnknownName,
)
from tseval.lm_eval_tasks import find_benchmark
from tseval.lm_eval_tasks._series import _jackknife
from tseval.lm_eval_tasks.export import results_file
from tseval.readback import stored_rows
from tseval.requests import Capabilities
from tseval.session import Session
from tseval.spec import RunSpec
from tseval.testing import ScriptedBackend
from tseval.types import Score, Thinking

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    import datasets

    # Read when the library is imported, so the variable is for other processes only.
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


def spec(name: str, **more: Any) -> RunSpec:
    from msgspec.structs import replace

    return replace(SPEC, benchmarks=(name,), **more)


@asynccontextmanager
async def opened(
    folder: Path, backend: ScriptedBackend, run: RunSpec, workers: Any = None
) -> AsyncIterator[Session]:
    async with session_on(folder, backend, spec=run) as session:
        session._workers = workers or toys.InProcess()
        yield session


def measure(
    folder: Path, backend: ScriptedBackend, name: str, workers: Any = None, **more: Any
) -> list[Score]:
    """Run one benchmark in a session of its own."""

    async def work() -> list[Score]:
        benchmark = find_benchmark(name)
        assert benchmark is not None
        async with opened(folder, backend, spec(name, **more), workers) as session:
            return await benchmark.run(session)

    return finish(work())


def scripted(script: Any, **more: Any) -> ScriptedBackend:
    return ScriptedBackend(script, view=toys.VIEW, **more)


def kept(folder: Path, name: str) -> dict[str, Any]:
    """What lm-eval's scorer returned, as the run's folder keeps it."""

    async def work() -> Path:
        async with opened(folder, scripted(toys.add), spec(name)) as session:
            return results_file(session, name)

    return json.loads(finish(work()).read_text())


def by_metric(scores: list[Score]) -> dict[str, Score]:
    return {
        f"{score.group}:{score.metric}" if score.group else score.metric: score for score in scores
    }


def test_a_model_that_knows_every_answer_scores_one(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path)
    scores = by_metric(measure(tmp_path / "run", scripted(toys.add), name))
    assert set(scores) == {"exact_match,strict-match", "exact_match,flexible-extract"}
    for score in scores.values():
        assert score.estimate is not None
        assert score.estimate.value == 1.0
        assert score.estimate.method == "exact"
        assert (score.n, score.n_prompts, score.excluded) == (12, 12, {})
        assert score.outcomes == {"correct": 12}
        assert score.higher_is_better
        assert score.truncated_share == 0.0


def test_a_model_that_knows_no_answer_scores_zero(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path)
    for score in measure(tmp_path / "run", scripted(toys.add_wrongly), name):
        assert score.estimate is not None
        assert score.estimate.value == 0.0
        assert score.outcomes == {"wrong": 12}


def test_choices_are_scored_by_their_likelihood(tmp_path: Path) -> None:
    name = toys.choice_task(tmp_path)
    scores = by_metric(measure(tmp_path / "run", toys.Chooser(toys.capital, view=toys.VIEW), name))
    assert set(scores) == {"acc", "acc_norm"}
    assert [score.estimate.value for score in scores.values() if score.estimate] == [1.0, 1.0]
    assert scores["acc"].n == 5
    assert scores["acc"].truncated_share is None


def test_a_model_that_always_chooses_the_first_is_right_where_the_first_is(tmp_path: Path) -> None:
    name = toys.choice_task(tmp_path)
    backend = toys.Chooser(lambda call: "Paris", view=toys.VIEW)
    scores = by_metric(measure(tmp_path / "run", backend, name))
    assert scores["acc"].estimate is not None
    assert scores["acc"].estimate.value == 0.2
    assert scores["acc"].outcomes == {"correct": 1, "wrong": 4}


def test_a_backend_without_probabilities_skips_choices_before_any_request(tmp_path: Path) -> None:
    name = toys.choice_task(tmp_path)
    backend = scripted(toys.capital, capabilities=Capabilities())
    with pytest.raises(CapabilityMissing, match="lacks logprobs"):
        measure(tmp_path / "run", backend, name)
    assert backend.calls == 0


def test_a_group_aggregates_as_lm_eval_does(tmp_path: Path) -> None:
    toys.choice_task(tmp_path, "toy_small", count=2)
    toys.choice_task(tmp_path, "toy_large", count=5)
    group = {
        "group": "toy_group",
        "task": ["toy_small", "toy_large"],
        "aggregate_metric_list": [{"metric": "acc", "aggregation": "mean", "weight_by_size": True}],
        "metadata": {"version": 2.0},
    }
    name = toys.write_task(tmp_path / "toy_group.yaml", group)
    backend = toys.Chooser(lambda call: "Paris", view=toys.VIEW)
    scores = by_metric(measure(tmp_path / "run", backend, name))
    assert next(iter(scores)) == "acc"
    values = {key: score.estimate.value for key, score in scores.items() if score.estimate}
    # One of two, one of five; together two of seven documents.
    assert values["toy_small:acc"] == 0.5
    assert values["toy_large:acc"] == 0.2
    assert values["acc"] == pytest.approx(2 / 7)
    assert values["acc"] == pytest.approx(
        kept(tmp_path / "run", name)["groups"]["toy_group"]["acc,none"]
    )
    whole = scores["acc"].estimate
    assert whole is not None
    # What the small one asks, the large one asks too: they are no independent parts.
    assert whole.method == "wilson on effective n"
    assert whole.low < 2 / 7 < whole.high
    assert scores["acc"].n == 7
    assert len({score.fingerprint for score in scores.values()}) == len(scores)


def stock_samples(source: Path, task: Any, lm: Any, ids: list[int] | None = None) -> dict[str, Any]:
    """Run lm-eval's own runner."""
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False, include_path=str(source))
    names = list(manager.load(task)["tasks"])
    results: dict[str, Any] = evaluator.simple_evaluate(
        model=lm,
        tasks=[task],
        task_manager=manager,
        samples={name: ids for name in names} if ids else None,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        log_samples=True,
        bootstrap_iters=1000,
    )
    return results


def hashes(samples: dict[str, list[dict[str, Any]]]) -> list[Any]:
    fields = ("doc_id", "doc_hash", "prompt_hash", "target_hash", "filter", "arguments")
    rows = [[name, *(row[f] for f in fields)] for name in samples for row in samples[name]]
    return json.loads(json.dumps(sorted(rows, key=lambda row: (row[0], row[1], row[5]))))


def test_prompts_and_documents_are_those_of_the_stock_harness(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path)
    measure(tmp_path / "run", scripted(toys.add), name)
    ours = kept(tmp_path / "run", name)
    stock = stock_samples(tmp_path, "toy_sums", toys.stock_lm(lambda prompt: "#### 6"))
    assert hashes(ours["samples"]) == hashes(stock["samples"])
    assert len(ours["samples"]["toy_sums"]) == 24
    # Two examples as turns, under the template, with the token that only a tokenizer knows.
    prompt = ours["samples"]["toy_sums"][0]["arguments"][0][0]
    assert prompt.startswith("<s><|user|>Question: 1")
    assert prompt.count("<|assistant|>") == 3


def test_choices_and_their_prompts_are_those_of_the_stock_harness(tmp_path: Path) -> None:
    name = toys.choice_task(tmp_path)
    measure(tmp_path / "run", toys.Chooser(toys.capital, view=toys.VIEW), name)
    ours = kept(tmp_path / "run", name)
    stock = stock_samples(tmp_path, "toy_choice", toys.stock_lm(lambda args: (-1.0, False)))
    assert hashes(ours["samples"]) == hashes(stock["samples"])
    assert len(ours["samples"]["toy_choice"]) == 5


def test_stock_gsm8k_over_local_data_asks_what_the_stock_harness_asks(
    tmp_path: Path, mirror: Path
) -> None:
    from tseval.lm_eval_tasks.stock import locate

    name = "lm-eval/gsm8k_cot_zeroshot"
    scores = measure(
        tmp_path / "run",
        scripted(lambda call: "The answer is 18."),
        name,
        data_dirs=(str(mirror),),
        limit=25,
    )
    ours = kept(tmp_path / "run", name)
    ids = sorted({row["doc_id"] for row in ours["samples"]["gsm8k_cot_zeroshot"]})
    assert len(ids) == 25
    file = str(mirror / "reasoning" / "gsm8k.jsonl")
    task = {
        "group": "local",
        "task": [
            {
                "task": "gsm8k_cot_zeroshot",
                "dataset_path": "json",
                "dataset_name": None,
                "dataset_kwargs": {"data_files": {"test": file, "train": file}},
            }
        ],
    }
    folder = locate("gsm8k_cot_zeroshot").folder
    assert folder is not None
    stock = stock_samples(folder, task, toys.stock_lm(lambda prompt: "The answer is 18."), ids)
    assert hashes(ours["samples"]) == hashes(stock["samples"])
    assert (
        ours["results"]["gsm8k_cot_zeroshot"]["exact_match,strict-match"]
        == (stock["results"]["gsm8k_cot_zeroshot"]["exact_match,strict-match"])
    )
    assert all(score.partial for score in scores)


def test_values_and_standard_errors_are_those_of_the_stock_harness(tmp_path: Path) -> None:
    def half(call: Any) -> str:
        return toys.add(call) if len(call.prompt) % 2 else "#### -7"

    def same(prompt: str) -> str:
        question = prompt.rpartition("<|user|>")[2].partition("\n<|assistant|>")[0]
        call = toys.Call(messages=(toys.Message(role="user", content=question),), prefix="", seed=0)
        return half(call).partition("Question:")[0]

    name = toys.sums_task(tmp_path)
    measure(tmp_path / "run", scripted(half), name)
    ours = kept(tmp_path / "run", name)
    stock = stock_samples(tmp_path, "toy_sums", toys.stock_lm(same))
    assert ours["results"] == stock["results"]
    assert 0 < ours["results"]["toy_sums"]["exact_match,strict-match"] < 1
    assert ours["n-samples"]["toy_sums"]["original"] == 12


def test_a_limit_takes_documents_that_a_larger_limit_takes_too(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path)

    def ids(limit: int) -> set[int]:
        folder = tmp_path / f"run{limit}"
        scores = measure(folder, scripted(toys.add), name, limit=limit)
        assert all(score.partial is (limit < 12) for score in scores)
        return {row["doc_id"] for row in kept(folder, name)["samples"]["toy_sums"]}

    few, more = ids(4), ids(8)
    assert len(few) == 4
    assert few < more
    assert ids(12) == set(range(12))


def test_a_second_leg_makes_nothing_again(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path)
    first = scripted(toys.add)
    scores = measure(tmp_path / "run", first, name)
    assert first.calls == 12
    again, workers = scripted(toys.add), toys.InProcess()
    assert measure(tmp_path / "run", again, name, workers) == scores
    assert again.calls == 0
    assert workers.calls == []


def test_what_was_answered_before_a_kill_is_not_asked_again(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path)
    asked = 0

    def until_killed(request: Any) -> None:
        nonlocal asked
        asked += 1
        if asked > 5:
            raise BackendUnavailable("the machine is gone")

    with pytest.raises(BackendUnavailable):
        measure(tmp_path / "run", scripted(toys.add, fail=until_killed, max_outstanding=1), name)
    after = scripted(toys.add)
    (score, _) = measure(tmp_path / "run", after, name)
    assert after.calls == 12 - 5
    assert score.n == 12


def test_a_document_that_the_machine_failed_leaves_the_denominator(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path)

    def fail(request: Any) -> None:
        if request.messages[-1].content.startswith("Question: 5 "):
            raise RequestFailed("no memory", kind="engine")

    scores = measure(tmp_path / "run", scripted(toys.add, fail=fail), name)
    for score in scores:
        assert score.estimate is not None
        assert (score.n, score.excluded) == (11, {"error": 1})
        assert score.estimate.value == 1.0
        assert score.bounds == (pytest.approx(11 / 12), 1.0)
    # Document 3 asks for 5 + 25; the prompts of those behind it are what they were.
    rows = kept(tmp_path / "run", name)["samples"]["toy_sums"]
    assert sorted({row["doc_id"] for row in rows}) == [0, 1, 2, *range(4, 12)]
    measure(tmp_path / "whole", scripted(toys.add), name)
    whole = kept(tmp_path / "whole", name)["samples"]["toy_sums"]
    known = {row["doc_id"]: row["prompt_hash"] for row in whole}
    assert all(row["prompt_hash"] == known[row["doc_id"]] for row in rows)
    mended = scripted(toys.add)
    (score, _) = measure(tmp_path / "run", mended, name)
    assert mended.calls == 1
    assert (score.n, score.excluded) == (12, {})


def test_without_any_answer_the_benchmark_says_so(tmp_path: Path) -> None:
    def fail(request: Any) -> None:
        raise RequestFailed("no memory", kind="engine")

    with pytest.raises(TsevalError, match="no document of toy_sums could be answered"):
        measure(tmp_path / "run", scripted(toys.add, fail=fail), toys.sums_task(tmp_path))


def thinker(script: Any) -> ScriptedBackend:
    return ScriptedBackend(script, view=toys.THINKING_VIEW)


def test_a_stop_string_ends_the_answer_and_not_the_trace(tmp_path: Path) -> None:
    def think(call: Any) -> str:
        return f"<think>\nQuestion: what is asked?\n</think>\n\n{toys.add(call)}"

    name = toys.sums_task(tmp_path)
    (score, _) = measure(tmp_path / "run", thinker(think), name)
    assert score.estimate is not None
    assert score.estimate.value == 1.0
    assert score.forced_close_share == 0.0
    row = kept(tmp_path / "run", name)["samples"]["toy_sums"][0]
    assert row["resps"][0][0].strip() == "Adding. #### 6"


def test_a_trace_that_never_closed_is_a_wrong_answer_and_counted_apart(tmp_path: Path) -> None:
    def ponder(call: Any) -> str:
        right = toys.add(call)
        return f"<think>\n{right}" if "Question: 3 " in call.prompt else right

    name = toys.sums_task(tmp_path)
    (score, _) = measure(
        tmp_path / "run", thinker(ponder), name, thinking=Thinking(budget=64, unclosed="empty")
    )
    assert score.estimate is not None
    assert score.estimate.value == pytest.approx(11 / 12)
    assert (score.n, score.excluded) == (12, {})
    assert score.unclosed_share == pytest.approx(1 / 12)


def test_an_answer_that_is_cut_off_is_counted_unless_a_stop_string_ended_it(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path)
    (score, _) = measure(tmp_path / "run", scripted(lambda call: "word " * 40), name)
    assert score.truncated_share == 1.0
    (score, _) = measure(
        tmp_path / "cut", scripted(lambda call: "#### 6 Question: " + "word " * 40), name
    )
    assert score.truncated_share == 0.0


def test_the_trace_and_the_finish_reason_are_read_back_from_the_journal(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path, count=3)

    async def work() -> list[Any]:
        benchmark = find_benchmark(name)
        assert benchmark is not None
        backend = thinker(lambda call: f"<think>\nhm\n</think>\n\n{toys.add(call)}")
        async with opened(tmp_path / "run", backend, spec(name)) as session:
            await benchmark.run(session)
            return list(stored_rows(session.journal))

    rows = finish(work())
    assert sorted(row.row.sample for row in rows) == ["0", "1", "2"]
    for stored in rows:
        assert stored.rollout is not None
        assert stored.rollout.trace.strip() == "hm"
        assert stored.rollout.finish == "stop"
        assert stored.row.prompt.startswith("Question: ")


def test_repeats_of_a_task_are_rollouts_of_their_own(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path, count=3, repeats=4)
    backend = scripted(toys.add)
    measure(tmp_path / "run", backend, name)
    assert backend.calls == 12
    rows = kept(tmp_path / "run", name)["samples"]["toy_sums"]
    assert all(len(row["resps"][0]) == 4 for row in rows)


def test_an_aggregate_that_is_no_mean_has_a_jackknife_interval(tmp_path: Path) -> None:
    metrics = [{"metric": "mcc", "aggregation": "matthews_corrcoef", "higher_is_better": True}]
    rows = [{"q": f"{n}?", "cities": ["no", "yes"], "label": n % 2} for n in range(60)]
    more: dict[str, Any] = {"doc_to_text": "{{q}}", "metric_list": metrics}
    name = toys.choice_task(tmp_path, **more)
    toys.write_rows(tmp_path / "toy_choice.rows.jsonl", rows)

    def mostly(call: Any) -> str:
        number = int(call.prompt.rstrip("?"))
        return ("no", "yes")[(number + (number % 5 == 0)) % 2]

    (score,) = measure(tmp_path / "run", toys.Chooser(mostly, view=toys.VIEW), name)
    official = kept(tmp_path / "run", name)["results"]["toy_choice"]["mcc,none"]
    assert score.estimate is not None
    # 48 of 60 right, evenly: (24 * 24 - 6 * 6) / 30^2.
    assert score.estimate.value == pytest.approx(official) == pytest.approx(0.6)
    assert score.estimate.method == "t on a jackknife over 60 groups"
    # The textbook standard error of phi at 0.6 and n = 60 is 0.1033.
    assert score.estimate.high - score.estimate.value == pytest.approx(2.0 * 0.1033, rel=0.05)
    assert score.outcomes == {}


@pytest.mark.parametrize(
    ("aggregate", "why"),
    [
        ("return 0.5 if len(items) == 5 else items[9]", "leaving documents out raises IndexError"),
        (
            "return 0.5 if len(items) == 5 else 0 / 0",
            "leaving documents out raises ZeroDivisionError",
        ),
        (
            "return 0.5 if len(items) == 5 else float('nan')",
            "leaving documents out gives no number",
        ),
        ("return 0.5", "leaving documents out changes nothing"),
    ],
)
def test_an_aggregate_that_has_no_jackknife_interval_says_why(
    tmp_path: Path, aggregate: str, why: str
) -> None:
    (tmp_path / "own.py").write_text(f"def most(items):\n    {aggregate}\n")
    name = toys.choice_task(tmp_path, metric_list=[])
    metrics = "{metric: acc, aggregation: !function own.most, higher_is_better: true}"
    file = tmp_path / "toy_choice.yaml"
    file.write_text(file.read_text().replace("metric_list: []", f"metric_list: [{metrics}]"))

    async def work() -> tuple[list[Score], list[str]]:
        benchmark = find_benchmark(name)
        assert benchmark is not None
        backend = toys.Chooser(toys.capital, view=toys.VIEW)
        async with opened(tmp_path / "run", backend, spec(name)) as session:
            return await benchmark.run(session), session.warnings

    (score,), warnings = finish(work())
    assert score.estimate is not None
    assert (score.estimate.value, score.estimate.low, score.estimate.high) == (0.5, 0.0, 1.0)
    assert score.estimate.method == f"no interval is known: {why}"
    assert [
        said for said in warnings if f"acc of toy_choice has no jackknife interval: {why}" in said
    ]
    # A board takes no longer method.
    assert len(score.estimate.method) <= 80
    assert len(score.estimate.method.split()) <= 12


def test_one_document_has_no_interval_and_the_score_says_so() -> None:
    assert _jackknife(max, [0.5]) == (None, 0, "fewer than two documents")


def test_an_aggregate_beyond_one_is_said_and_not_shown_as_a_share(tmp_path: Path) -> None:
    metrics = [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
    ]
    more = {"output_type": "loglikelihood", "doc_to_choice": None, "metric_list": metrics}
    name = toys.choice_task(tmp_path, doc_to_target="{{cities[label]}}", **more)

    async def work() -> tuple[list[Score], list[str]]:
        benchmark = find_benchmark(name)
        assert benchmark is not None
        backend = toys.Chooser(toys.capital, view=toys.VIEW)
        async with opened(tmp_path / "run", backend, spec(name)) as session:
            return await benchmark.run(session), session.warnings

    (score,), warnings = finish(work())
    assert score.metric == "acc"
    (warning,) = warnings
    assert "perplexity of toy_choice is 1.64" in warning
    assert "is no share and has no row" in warning


def test_a_task_that_runs_code_needs_a_confirmation_before_anything_is_asked(
    tmp_path: Path,
) -> None:
    name = toys.sums_task(tmp_path, unsafe_code=True)
    backend = scripted(toys.add)
    with pytest.raises(ConfigError, match="toy_sums runs code that the model wrote") as error:
        measure(tmp_path / "run", backend, name)
    assert "--confirm-run-unsafe-code" in error.value.hint
    assert backend.calls == 0
    (score, _) = measure(tmp_path / "run", backend, name, unsafe_code=True)
    assert score.n == 12


def test_stock_humaneval_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="humaneval runs code"):
        measure(tmp_path / "run", scripted(toys.add), "lm-eval/humaneval")


def test_a_task_begins_the_models_turn_as_in_the_stock_harness(tmp_path: Path) -> None:
    """The model goes on from the beginning, and scorers see what it wrote, spaces and all."""
    seen: list[str] = []

    def go_on(call: Any) -> str:
        seen.append(call.prefix)
        return f"  {toys.add(call)}"

    name = toys.sums_task(tmp_path, gen_prefix="Sum of {{question}}:\n")
    strict, _ = measure(tmp_path / "run", scripted(go_on), name)
    assert strict.estimate is not None
    assert strict.estimate.value == 1.0
    assert "Sum of 2 + 4?:\n" in seen
    stock_lm = toys.stock_lm(lambda prompt: "  " + toys.ADDED)
    ours = kept(tmp_path / "run", name)["samples"]
    stock = stock_samples(tmp_path, "toy_sums", stock_lm)["samples"]
    assert hashes(ours) == hashes(stock)
    row = ours["toy_sums"][0]
    assert row["arguments"][0][0].endswith("<|assistant|>Sum of 2 + 4?:\n")
    # What the beginning says is no part of what is scored; stock gives as little.
    assert row["resps"] == [["  Adding. #### 6\n\n"]]
    assert stock["toy_sums"][0]["resps"] == [["  " + toys.ADDED]]


def test_a_model_that_thinks_does_not_where_its_turn_is_begun_for_it(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path, gen_prefix="The sum is")
    seen: list[str] = []

    def go_on(call: Any) -> str:
        seen.append(call.prefix)
        return " 6 #### 6"

    async def work() -> tuple[list[Score], list[str], set[str]]:
        benchmark = find_benchmark(name)
        assert benchmark is not None
        backend = ScriptedBackend(go_on, view=toys.THINKING_VIEW)
        async with opened(tmp_path / "run", backend, spec(name)) as session:
            scores = await benchmark.run(session)
            modes = {each.thinking.mode for each in session.protocols.values()}
            return scores, session.warnings, modes

    scores, warnings, modes = finish(work())
    assert all(each.endswith("</think>\n\nThe sum is") for each in seen)
    assert any("leaves no room for thinking" in each for each in warnings)
    assert modes == {"off"}
    assert scores[0].unclosed_share == 0.0


def test_a_turn_is_begun_only_where_the_backend_can_go_on_from_it(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path, gen_prefix="The answer is")
    backend = scripted(toys.add, capabilities=Capabilities())
    with pytest.raises(CapabilityMissing, match="lacks prefix"):
        measure(tmp_path / "run", backend, name)
    assert backend.calls == 0


def test_a_rolling_likelihood_is_skipped_with_the_reason(tmp_path: Path) -> None:
    more = {"output_type": "loglikelihood_rolling", "doc_to_choice": None}
    metrics = [
        {
            "metric": "word_perplexity",
            "aggregation": "weighted_perplexity",
            "higher_is_better": False,
        }
    ]
    name = toys.choice_task(
        tmp_path, doc_to_target="{{country}}", description="", metric_list=metrics, **more
    )
    with pytest.raises(CapabilityMissing, match="kind 'loglikelihood_rolling'"):
        measure(tmp_path / "run", scripted(toys.add), name)


def test_two_system_turns_are_refused(tmp_path: Path) -> None:
    backend = toys.Chooser(toys.capital, view=toys.VIEW)
    with pytest.raises(ConfigError, match="has a system turn of its own"):
        measure(tmp_path / "run", backend, toys.choice_task(tmp_path), system_prompt="Be kind.")


def test_examples_without_a_file_of_their_split_are_refused(tmp_path: Path) -> None:
    toys.write_rows(tmp_path / "gsm8k.jsonl", toys.sums(2, 5))
    with pytest.raises(DataError, match="gsm8k shows 5 examples of the split 'train'") as error:
        measure(tmp_path / "run", scripted(toys.add), "lm-eval/gsm8k", data_dirs=(str(tmp_path),))
    assert "gsm8k.train.jsonl" in str(error.value)


def test_stock_gsm8k_takes_its_examples_from_a_file_beside_the_rows(tmp_path: Path) -> None:
    toys.write_rows(tmp_path / "gsm8k.jsonl", toys.sums(2, 5))
    toys.write_rows(tmp_path / "gsm8k.train.jsonl", toys.sums(100, 9))
    scores = by_metric(
        measure(tmp_path / "run", scripted(toys.add), "lm-eval/gsm8k", data_dirs=(str(tmp_path),))
    )
    assert [s.estimate.value for s in scores.values() if s.estimate] == [1.0, 1.0]
    (prompt, _) = kept(tmp_path / "run", "lm-eval/gsm8k")["samples"]["gsm8k"][0]["arguments"][0]
    assert prompt.count("<|user|>Question: 10") == 5


def test_data_that_changed_between_two_legs_is_asked_anew(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path)
    (before, _) = measure(tmp_path / "run", scripted(toys.add), name)
    toys.write_rows(tmp_path / "sums_test.jsonl", toys.sums(3, 12))
    backend = scripted(toys.add)
    toys.write_task(tmp_path / "touched.yaml", {"task": "touched"})
    (after, _) = measure(tmp_path / "run", backend, name, data_dirs=(str(tmp_path),))
    assert backend.calls == 12
    assert after.fingerprint != before.fingerprint


def test_the_fingerprint_covers_prompts_decoding_and_filters_and_not_the_path(
    tmp_path: Path,
) -> None:
    def fingerprint(folder: str, more: dict[str, Any] | None = None, **run: Any) -> str:
        place = tmp_path / folder
        place.mkdir()
        name = toys.sums_task(place, count=3, **(more or {}))
        (score, *_) = measure(place / "run", scripted(toys.add), name, **run)
        return score.fingerprint

    greedy = {"until": ["Question:"], "do_sample": False, "max_gen_toks": 60}
    base = fingerprint("a")
    assert fingerprint("b") == base
    others = [
        fingerprint("c", {"num_fewshot": 1}),
        fingerprint("d", {"generation_kwargs": greedy | {"max_gen_toks": 61}}),
        fingerprint("e", {"generation_kwargs": greedy | {"until": ["Q:"]}}),
        fingerprint("f", {"doc_to_text": "Q: {{question}}\nAnswer:"}),
        fingerprint("g", {"metadata": {"version": 4.0}}),
        fingerprint("h", thinking=Thinking(budget=5)),
        fingerprint("i", decoding="recommended"),
    ]
    assert len({base, *others}) == 8


def test_an_unknown_task_is_answered_with_near_misses() -> None:
    with pytest.raises(UnknownName, match="unknown lm-eval task 'gsm8k_cott'") as error:
        find_benchmark("lm-eval/gsm8k_cott")
    assert "did you mean 'lm-eval/gsm8k_cot'" in error.value.hint


def test_a_missing_task_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no task file nowhere\.yaml"):
        find_benchmark("lm-eval/nowhere.yaml")


def test_names_of_others_are_left_to_others() -> None:
    assert find_benchmark("other/gsm8k") is None


@pytest.mark.parametrize(
    ("task", "folder"),
    [
        ("gsm8k_cot", "gsm8k"),
        ("aime24", "aime"),
        ("mmlu_pro_law", "mmlu_pro"),
        ("mmlu", "mmlu"),
        ("arc_easy", "arc"),
        ("gpqa_diamond_cot_zeroshot", "gpqa"),
        ("minerva_math500", "minerva_math"),
        ("humaneval_instruct", "humaneval"),
    ],
)
def test_a_stock_task_is_found_in_its_folder(task: str, folder: str) -> None:
    from tseval.lm_eval_tasks.stock import locate, tasks_folder

    found = locate(task)
    assert found.folder is not None
    assert found.folder.relative_to(tasks_folder()).parts[0] == folder


def test_a_tag_asks_for_the_full_index_since_other_folders_may_have_it_too() -> None:
    from tseval.lm_eval_tasks.stock import locate

    assert locate("math_word_problems").folder is None
    # Named in a file that others include.
    assert locate("acp_bench").folder is None


def test_an_oracle_is_right_although_stock_gpqa_shuffles_its_choices(tmp_path: Path) -> None:
    rows = [
        {
            "Question": f"Which of these is {n}?",
            "Correct Answer": f"right {n}",
            **{f"Incorrect Answer {k}": f"wrong {n} {k}" for k in (1, 2, 3)},
        }
        for n in range(30)
    ]
    toys.write_rows(tmp_path / "gpqa_diamond.jsonl", rows)

    def oracle(call: Any) -> str:
        letter = call.prompt.partition(") right")[0][-1]
        return f"Let me see. The answer is ({letter})."

    name = "lm-eval/gpqa_diamond_cot_zeroshot"
    scores = by_metric(
        measure(tmp_path / "run", scripted(oracle), name, data_dirs=(str(tmp_path),))
    )
    strict = scores["exact_match,strict-match"].estimate
    assert strict is not None
    assert strict.value == 1.0
    samples = kept(tmp_path / "run", name)["samples"]["gpqa_diamond_cot_zeroshot"]
    assert len({row["target"] for row in samples}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("right", [True, False])
def test_an_oracle_on_every_row_of_gsm8k_scores_one_and_its_opposite_zero(
    tmp_path: Path, mirror: Path, right: bool
) -> None:
    rows = map(json.loads, (mirror / "reasoning" / "gsm8k.jsonl").open(encoding="utf-8"))
    answers = {row["question"]: row["answer"].rpartition("#### ")[2] for row in rows}

    def oracle(call: Any) -> str:
        question = call.prompt.removeprefix("Q: ").partition("\nA: Let's think")[0]
        number = answers[question].replace(",", "")
        return f"The answer is {number if right else int(number) + 1}."

    name = "lm-eval/gsm8k_cot_zeroshot"
    scores = measure(tmp_path / "run", scripted(oracle), name, data_dirs=(str(mirror),))
    for score in scores:
        assert score.estimate is not None
        assert score.estimate.value == float(right)
        assert score.n == 1319
        assert not score.partial


def problems(folder: Path, **columns: str) -> str:
    """Write rows of stock aime24 under some names of its columns."""
    names = {"problem": "Problem", "answer": "Answer"} | columns
    rows = [
        {names["problem"]: f"{n} + {n}?", names["answer"]: str(2 * n), "id": n} for n in (21, 34)
    ]
    toys.write_rows(folder / "aime24.jsonl", rows)
    return "lm-eval/aime24"


def doubled(call: Any) -> str:
    return rf"So it is \boxed{{{2 * int(call.prompt.split()[1])}}}."


@pytest.mark.parametrize("columns", [{}, {"problem": "problem", "answer": "answer"}])
def test_columns_of_a_mirror_may_differ_from_a_tasks_in_case(
    tmp_path: Path, columns: dict[str, str]
) -> None:
    name = problems(tmp_path, **columns)
    (score,) = measure(tmp_path / "run", scripted(doubled), name, data_dirs=(str(tmp_path),))
    assert score.estimate is not None
    assert score.estimate.value == 1.0
    rows = kept(tmp_path / "run", name)["samples"]["aime24"]
    assert [row["doc"]["Problem"] for row in rows] == ["21 + 21?", "34 + 34?"]


def test_a_column_that_is_missing_is_named(tmp_path: Path) -> None:
    name = problems(tmp_path, problem="task")
    with pytest.raises(DataError, match="what its rows do not have: 'Problem' is undefined"):
        measure(tmp_path / "run", scripted(doubled), name, data_dirs=(str(tmp_path),))


def test_an_oracle_on_the_mirrors_aime24_scores_one(tmp_path: Path, mirror: Path) -> None:
    rows = map(json.loads, (mirror / "reasoning" / "aime24.jsonl").open(encoding="utf-8"))
    answers = {row["problem"]: row["answer"] for row in rows}

    def oracle(call: Any) -> str:
        asked = call.prompt.removeprefix("Question: ").removesuffix("Answer:").strip()
        return rf"\boxed{{{answers[asked]}}}"

    (score,) = measure(
        tmp_path / "run", scripted(oracle), "lm-eval/aime24", data_dirs=(str(mirror),)
    )
    assert score.estimate is not None
    assert (score.estimate.value, score.n) == (1.0, 30)


def test_a_scorer_that_was_repaired_scores_again_and_asks_nothing(tmp_path: Path) -> None:
    first = [{"name": "none", "filter": [{"function": "take_first"}]}]
    name = toys.sums_task(tmp_path, filter_list=first)
    with (tmp_path / "toy_sums.yaml").open("a") as file:
        file.write("process_results: !function scorer.score\n")
    scorer = tmp_path / "scorer.py"
    found = []
    for right in ("0.0", "1.00"):
        scorer.write_text(f"def score(doc, results):\n    return {{'exact_match': {right}}}\n")
        backend = scripted(toys.add)
        (score,) = measure(tmp_path / "run", backend, name)
        found.append((score.estimate and score.estimate.value, backend.calls))
    assert found == [(0.0, 12), (1.0, 0)]


def test_a_file_that_a_task_includes_is_part_of_it(tmp_path: Path) -> None:
    toys.sums_task(tmp_path)
    place = tmp_path / "own"
    place.mkdir()
    base = (tmp_path / "toy_sums.yaml").rename(tmp_path / "_base_yaml")
    file = place / "mine.yaml"
    file.write_text("include: ../_base_yaml\ntask: toy_mine\n")
    before = by_metric(measure(tmp_path / "run", scripted(toys.add), f"lm-eval/{file}"))
    base.write_text(base.read_text().replace("#### (", "##### ("))
    after = by_metric(measure(tmp_path / "run", scripted(toys.add), f"lm-eval/{file}"))
    values = [
        scores["exact_match,strict-match"].estimate.value  # type: ignore[union-attr]
        for scores in (before, after)
    ]
    assert values == [1.0, 0.0]


def test_a_group_within_a_group_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    for name, count in (("toy_small", 2), ("toy_large", 5)):
        toys.choice_task(tmp_path, name, count=count)
    metric = {"metric": "acc", "aggregation": "mean"}
    inner = {
        "group": "toy_inner",
        "task": ["toy_small", "toy_large"],
        "aggregate_metric_list": [{**metric, "weight_by_size": True}],
    }
    outer = {
        "group": "toy_outer",
        "task": [inner],
        "aggregate_metric_list": [{**metric, "weight_by_size": False}],
    }
    name = toys.write_task(tmp_path / "toy_outer.yaml", outer)
    backend = toys.Chooser(lambda call: "Paris", view=toys.VIEW)
    scores = measure(tmp_path / "run", backend, name)
    values = {(s.group, s.metric): s.estimate.value for s in scores if s.estimate}
    assert len(values) == len(scores)
    assert values["", "acc"] == pytest.approx((1 / 2 + 1 / 5) / 2)
    assert values["toy_outer::toy_inner", "acc"] == pytest.approx(2 / 7)


def test_a_choice_is_scored_behind_an_empty_trace_and_never_inside_one(tmp_path: Path) -> None:
    seen: list[tuple[Any, ...]] = []

    class Thinker(toys.Chooser):
        async def loglikelihood(self, request: Any) -> Any:
            seen.append(request.context)
            return await super().loglikelihood(request)

    name = toys.choice_task(tmp_path)
    # As the templates of models that always think: they open the trace themselves.
    ended = f"{toys.VIEW.rendered}<think>\n"
    view = msgspec.structs.replace(
        toys.THINKING_VIEW,
        rendered=ended,
        rendered_off=ended,
        template=f"{toys.TEMPLATE}{{{{ '<think>\\n' }}}}",
    )
    (score, _) = measure(tmp_path / "run", Thinker(toys.capital, view=view), name)
    assert score.estimate is not None
    assert score.estimate.value == 1.0
    assert seen
    assert all(len(context) == 1 and context[0].endswith("</think>\n\n") for context in seen)


def test_a_group_that_asks_twice_about_each_document_knows_no_more_than_one_task(
    tmp_path: Path,
) -> None:
    for name in ("toy_plain", "toy_twin"):
        toys.choice_task(tmp_path, name, description=f"{name}.\n\n")
    group = {
        "group": "toy_both",
        "task": ["toy_plain", "toy_twin"],
        "aggregate_metric_list": [{"metric": "acc", "aggregation": "mean"}],
    }
    name = toys.write_task(tmp_path / "toy_both.yaml", group)
    backend = toys.Chooser(lambda call: "Paris", view=toys.VIEW)
    (both, *tasks) = measure(tmp_path / "run", backend, name)
    one = next(score for score in tasks if score.metric == "acc")
    assert both.estimate is not None
    assert one.estimate is not None
    assert (both.n, one.n) == (10, 5)
    assert both.estimate.value == one.estimate.value == 0.2
    assert both.estimate.high - both.estimate.low >= one.estimate.high - one.estimate.low


def test_tasks_of_a_group_that_share_no_document_are_independent_parts(tmp_path: Path) -> None:
    for name in ("toy_first", "toy_rest"):
        toys.choice_task(tmp_path, name)
    file = tmp_path / "toy_first.rows.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    toys.write_rows(file, rows[:2])
    toys.write_rows(tmp_path / "toy_rest.rows.jsonl", rows[2:])
    group = {
        "group": "toy_parts",
        "task": ["toy_first", "toy_rest"],
        "aggregate_metric_list": [{"metric": "acc", "aggregation": "mean"}],
    }
    name = toys.write_task(tmp_path / "toy_parts.yaml", group)
    backend = toys.Chooser(lambda call: "Paris", view=toys.VIEW)
    (whole, *_) = measure(tmp_path / "run", backend, name)
    assert whole.estimate is not None
    assert (whole.estimate.value, whole.estimate.method) == (pytest.approx(1 / 5), "mover")


def test_the_fingerprint_covers_what_a_scorer_calls(tmp_path: Path) -> None:
    def fingerprint(worth: str) -> str:
        folder = tmp_path / worth
        folder.mkdir()
        first = [{"name": "none", "filter": [{"function": "take_first"}]}]
        name = toys.sums_task(folder, filter_list=first)
        with (folder / "toy_sums.yaml").open("a") as file:
            file.write("process_results: !function scorer.score\n")
        (folder / "scorer.py").write_text(
            f"def worth():\n    return {worth}\n\n\n"
            "def score(doc, results):\n    return {'exact_match': worth()}\n"
        )
        (score,) = measure(folder / "run", scripted(toys.add), name)
        return score.fingerprint

    assert fingerprint("0.0") != fingerprint("1.0")


def test_a_row_without_its_right_answer_is_refused(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path)
    rows = [*toys.sums(2, 3), {"question": "3 + 9?"}]
    toys.write_rows(tmp_path / "sums_test.jsonl", rows)
    backend = scripted(toys.add)
    with pytest.raises(DataError, match="row 4 has no 'answer', which is its right answer"):
        measure(tmp_path / "run", backend, name)
    assert backend.calls == 0
