"""Run inside worker processes: build a task's requests, and score what was answered.

The only module that uses lm-eval (with ``_loading``); everything goes in and out as plain values.
"""

import inspect
import json
import os
import random
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from tseval.errors import DataError, TsevalError

from . import records
from ._columns import require_target
from ._loading import FEWSHOT_SEED, compiled_once, load, refused, seed
from ._models import asking_model, replaying_model
from ._series import group_values, series_of
from .records import (
    Answers,
    Ask,
    Built,
    Context,
    DocPlan,
    Order,
    Refusal,
    Scored,
    TaskPlan,
    Template,
)

# Iterations for the standard errors that lm-eval bootstraps; means need none. Few, since our own
# intervals do not rest on them, and each computes the aggregate anew.
_BOOTSTRAP = 100


@compiled_once()
def build(order: dict[str, Any]) -> dict[str, Any]:
    """Load a task and build its requests.

    Args:
        order: A :class:`records.Order` as plain values.

    Returns:
        A :class:`records.Built` as plain values.
    """
    asked = msgspec.convert(order, Order)
    loaded = load(asked)
    if isinstance(loaded, Refusal):
        return _plain(Built(refusal=loaded))
    refusal = _unsupported(loaded["tasks"].values())
    if refusal:
        return _plain(Built(refusal=refusal))
    contexts: dict[str, int] = {}
    plans = []
    for name, task in loaded["tasks"].items():
        hashes = [hash_doc(doc) for doc in task.eval_docs]
        planned = _subset(hashes, asked)
        _fill(task, asking_model(), planned)
        plans.append(_plan(name, task, planned, len(hashes), contexts))
    return _plain(
        Built(
            tasks=tuple(plans),
            contexts=tuple(_context(text) for text in contexts),
        )
    )


def refusal(order: dict[str, Any]) -> dict[str, Any]:
    """Say why a task will not be run, from its files alone.

    Args:
        order: A :class:`records.Order` as plain values.

    Returns:
        A :class:`records.Built` without tasks, as plain values.
    """
    return _plain(Built(refusal=refused(msgspec.convert(order, Order))))


@compiled_once()
def score(
    order: dict[str, Any], answers: dict[str, Any], template: dict[str, Any], out: str
) -> dict[str, Any]:
    """Score answers with ``lm_eval.evaluate``, and keep all that it returned.

    Args:
        order: As for :func:`build`.
        answers: :class:`records.Answers` by task, as plain values.
        template: A :class:`records.Template`, as plain values.
        out: File for results and sample rows; '' keeps none.

    Returns:
        A :class:`records.Scored` as plain values.

    Raises:
        DataError: The task asks other prompts than it did when they were built.
    """
    asked = msgspec.convert(order, Order)
    given = msgspec.convert(answers, dict[str, Answers])
    loaded = load(asked)
    if isinstance(loaded, Refusal):
        raise TsevalError(loaded.message, hint=loaded.hint)
    model = replaying_model(msgspec.convert(template, Template))
    for name, task in loaded["tasks"].items():
        _replay(name, task, model, given[name])
    with _code_allowed(asked.unsafe_code):
        results = _evaluate(loaded, model, given, asked)
    _check_docs(results["samples"])
    if out:
        _keep(results, Path(out))
    return _plain(
        Scored(
            series=series_of(results, loaded["tasks"], given),
            groups=group_values(results, loaded),
        )
    )


def hash_doc(doc: Any) -> str:
    """Hash a document as lm-eval does (its ``doc_hash``)."""
    from lm_eval.utils import handle_non_serializable

    text = json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return sha256(text.encode()).hexdigest()


def _plain(value: Built | Scored) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain


def _unsupported(tasks: Iterable[Any]) -> Refusal | None:
    for task in tasks:
        if getattr(task, "MULTIMODAL", False):
            return Refusal(kind="capability", message=f"{task.task_name} needs images or audio")
        if task.OUTPUT_TYPE not in ("generate_until", "loglikelihood", "multiple_choice"):
            what = f"{task.task_name} is of the kind {task.OUTPUT_TYPE!r}"
            return Refusal(kind="capability", message=f"{what}, which tseval does not measure")
    return None


def _subset(hashes: list[str], order: Order) -> list[int]:
    """Choose the documents of a limit; under one seed a smaller limit takes a subset."""
    everything = range(len(hashes))
    if order.limit is None or order.limit >= len(hashes):
        return list(everything)

    def rank(number: int) -> tuple[str, int]:
        text = f"{order.subset_seed}\0{hashes[number]}"
        return sha256(text.encode()).hexdigest(), number

    # Rising, since lm-eval numbers documents in the order of the split whatever is asked for.
    return sorted(sorted(everything, key=rank)[: order.limit])


def _fill(task: Any, model: Any, planned: list[int]) -> None:
    """Build a task's requests for some documents, with the few-shot examples of a fresh start."""
    seed()
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    task.build_all_requests(
        samples=planned,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        chat_template=model.apply_chat_template,
        tokenizer_name=model.tokenizer_name,
    )


def _plan(
    name: str, task: Any, planned: list[int], total: int, contexts: dict[str, int]
) -> TaskPlan:
    kwargs: dict[str, int] = {}
    docs: list[DocPlan] = []
    for number, instances in _by_doc(task):
        asks = [_ask(instance, contexts, kwargs) for instance in instances]
        doc = instances[0].doc
        require_target(task.get_config("doc_to_target"), doc, planned[number])
        docs.append(
            DocPlan(
                id=planned[number],
                hash=hash_doc(doc),
                target=sha256(str(task.doc_to_target(doc)).encode()).hexdigest(),
                asks=tuple(asks),
            )
        )
    return TaskPlan(
        name=name,
        version=str(task.VERSION),
        kind=task.OUTPUT_TYPE,
        shots=int(task.get_config("num_fewshot") or 0),
        n_total=total,
        filters=tuple(each.name for each in task._filters),
        config=_config_hash(task),
        kwargs=tuple(json.loads(text) for text in kwargs),
        docs=tuple(docs),
        digest=_digest(task, planned, lambda text: text),
        begun=any(_context(each.args[0]).prefill for each in task.instances if each.args[0]),
    )


def _by_doc(task: Any) -> list[tuple[int, list[Any]]]:
    grouped: dict[int, list[Any]] = {}
    for instance in task.instances:
        grouped.setdefault(instance.doc_id, []).append(instance)
    return [
        (number, sorted(each, key=lambda instance: instance.idx))
        for number, each in grouped.items()
    ]


def _ask(instance: Any, contexts: dict[str, int], kwargs: dict[str, int]) -> Ask:
    context, second = instance.args[:2]
    place = -1 if context == "" else contexts.setdefault(context, len(contexts))
    if place >= 0:
        _context(context)
    if instance.request_type == "generate_until":
        text = json.dumps(second, sort_keys=True, default=str)
        number = kwargs.setdefault(text, len(kwargs))
        return Ask(context=place, kwargs=number, repeats=int(instance.repeats or 1))
    return Ask(context=place, continuation=str(second))


def _context(text: str) -> Context:
    try:
        turns, prefill = json.loads(text)
        return Context(turns=tuple((role, content) for role, content in turns), prefill=prefill)
    except (json.JSONDecodeError, TypeError, ValueError):
        raise DataError(
            "the task changes its prompts after they were put into turns",
            hint="such tasks cannot be asked as conversations",
        ) from None


def _config_hash(task: Any) -> str:
    config = dict(task.dump_config())
    # Where documents come from is no part of how they are asked: their hashes are.
    for key in ("dataset_path", "dataset_name", "dataset_kwargs", "metadata"):
        config.pop(key, None)
    # A function's own source is in the configuration; what it calls is beside it.
    config["functions"] = sorted(_modules(vars(task.config)))
    return sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _modules(value: Any) -> set[str]:
    """Hash the files of all functions in a configuration."""
    if isinstance(value, dict | list | tuple):
        parts = value.values() if isinstance(value, dict) else value
        return set().union(*map(_modules, parts))
    try:
        file = inspect.getsourcefile(inspect.unwrap(value)) if callable(value) else None
        return {sha256(Path(file).read_bytes()).hexdigest()} if file else set()
    except (TypeError, OSError):
        return set()


def _digest(task: Any, planned: list[int], shown: Callable[[str], str]) -> str:
    parts = []
    for number, instances in _by_doc(task):
        doc = instances[0].doc
        asks = [[shown(str(each.args[0])), str(each.args[1])] for each in instances]
        parts.append([planned[number], hash_doc(doc), asks, str(task.doc_to_target(doc))])
    return records.digest(parts)


def _replay(name: str, task: Any, model: Any, given: Answers) -> None:
    """Build a task's requests once more, and leave those that were answered."""
    planned = list(given.planned)
    _fill(task, model, planned)
    if _digest(task, planned, model.asked_for) != given.digest:
        raise DataError(
            f"{name} asks other prompts now than it did when they were built",
            hint="its data has changed, or its prompts depend on chance: run again with --fresh",
        )
    places = {planned.index(doc): position for position, doc in enumerate(given.docs)}
    kept = [each for each in task.instances if each.doc_id in places]
    for instance in kept:
        instance.doc_id = places[instance.doc_id]
        model.remember(instance, given.responses[instance.doc_id][instance.idx])
    # Failed documents are left out; building anew without them would show other examples.
    task.instances[:] = kept
    task.build_all_requests = lambda **_: None


def _evaluate(
    loaded: dict[str, Any], model: Any, given: dict[str, Answers], order: Order
) -> dict[str, Any]:
    from lm_eval import evaluator

    seed()
    results: dict[str, Any] = evaluator.evaluate(
        lm=model,
        task_dict=loaded,
        samples={name: list(answers.docs) for name, answers in given.items()},
        bootstrap_iters=_BOOTSTRAP,
        log_samples=True,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        confirm_run_unsafe_code=order.unsafe_code,
    )
    return results


@contextmanager
def _code_allowed(allowed: bool) -> Any:
    """Let metrics execute code, and bootstraps stay in this process, for one call only."""
    wanted = {"DISABLE_MULTIPROC": "1", **({"HF_ALLOW_CODE_EVAL": "1"} if allowed else {})}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _check_docs(samples: dict[str, list[dict[str, Any]]]) -> None:
    """Refuse documents that are not the ones that were asked (a shuffle that is not repeated)."""
    for name, rows in samples.items():
        for row in rows:
            if hash_doc(row["doc"]) != row["doc_hash"]:
                raise DataError(
                    f"{name} gives document {row['doc_id']} another content each time",
                    hint="its process_docs depends on chance: caching of datasets must be on",
                )


def _keep(results: dict[str, Any], out: Path) -> None:
    """Write results and sample rows, whole or not at all."""
    from lm_eval.utils import handle_non_serializable

    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"{out.name}.{random.getrandbits(32):08x}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(results, file, default=handle_non_serializable, ensure_ascii=False)
    temporary.replace(out)
