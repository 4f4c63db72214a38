"""What the worker processes are asked, and what they answer: plain records, no lm-eval."""

import json
from hashlib import sha256
from typing import Any

from msgspec import Struct

# Changes whenever the same arguments could give another answer.
VERSION = "4"


class Order(Struct, frozen=True, kw_only=True):
    """Which task is to be loaded, and from what data.

    Attributes:
        task: Name of the task, group or tag; '' where ``file`` says it.
        folder: Folder whose task files are indexed; '' for lm-eval's full index.
        file: The user's own YAML file, or ''.
        data_dirs: Folders with local data, absolute.
        stamps: Path, size and time of the data files there, and of what a task of the user's own
            is made of: part of what is asked, so that what has changed is read anew.
        limit: Documents per task, or None.
        subset_seed: Which documents a limit takes.
        unsafe_code: Whether tasks that execute code which the model wrote may run.
    """

    task: str
    folder: str = ""
    file: str = ""
    data_dirs: tuple[str, ...] = ()
    stamps: tuple[tuple[str, int, int], ...] = ()
    limit: int | None = None
    subset_seed: int = 0
    unsafe_code: bool = False


class Refusal(Struct, frozen=True, kw_only=True):
    """Why a task cannot be run at all.

    Attributes:
        kind: 'config' for wrong usage, 'capability' for what tseval does not do.
        message, hint: As of an error.
    """

    kind: str
    message: str
    hint: str = ""


class Ask(Struct, frozen=True, kw_only=True, array_like=True):
    """One request of a document.

    Attributes:
        context: Number of its context in ``Built.contexts``; -1 for none.
        continuation: What is scored; None where an answer is generated.
        kwargs: Number of its generation kwargs in ``TaskPlan.kwargs``.
        repeats: How many answers are asked for.
    """

    context: int
    continuation: str | None = None
    kwargs: int = 0
    repeats: int = 1


class DocPlan(Struct, frozen=True, kw_only=True, array_like=True):
    """A document's requests.

    Attributes:
        id: Its number in the task's split.
        hash: lm-eval's doc_hash.
        target: lm-eval's target_hash.
        asks: Its requests, in lm-eval's order.
    """

    id: int
    hash: str
    target: str
    asks: tuple[Ask, ...]


class TaskPlan(Struct, frozen=True, kw_only=True):
    """One task, ready to be asked.

    Attributes:
        name: lm-eval's name of it.
        version: Of the task.
        kind: lm-eval's output type.
        shots: Number of examples in each prompt.
        n_total: Documents before a limit.
        filters: Names of the filters.
        config: Hash of the task's configuration, data source aside: prompts, filters, metrics,
            functions with their source.
        kwargs: Distinct generation kwargs.
        docs: The documents that are asked.
        digest: Hash over documents, prompts and targets; the scorer has to find the same.
        begun: Whether the task begins the model's turn for it.
    """

    name: str
    version: str
    kind: str
    shots: int
    n_total: int
    filters: tuple[str, ...]
    config: str
    kwargs: tuple[dict[str, Any], ...]
    docs: tuple[DocPlan, ...]
    digest: str
    begun: bool = False


class Context(Struct, frozen=True, kw_only=True, array_like=True):
    """A conversation, and how the assistant's turn begins.

    Attributes:
        turns: Pairs of role and content.
        prefill: What the task puts at the beginning of the assistant's turn, or ''.
    """

    turns: tuple[tuple[str, str], ...]
    prefill: str = ""


class Built(Struct, frozen=True, kw_only=True):
    """What :func:`tseval.lm_eval_tasks.worker.build` answers.

    Attributes:
        refusal: Why there is nothing, or None.
        tasks: The tasks, in lm-eval's order.
        contexts: Distinct contexts of all requests.
    """

    refusal: Refusal | None = None
    tasks: tuple[TaskPlan, ...] = ()
    contexts: tuple[Context, ...] = ()


class Template(Struct, frozen=True, kw_only=True):
    """How prompts are shown in sample rows: as the model's chat template renders them.

    Attributes:
        source: The chat template; '' shows prompts as JSON messages, as lm-eval does for servers.
        rendered: What the backend made of a one-turn conversation, to check the rendering by.
        kwargs: Arguments of the template.
        system: System prompt of the run, or ''.
    """

    source: str = ""
    rendered: str = ""
    kwargs: dict[str, Any] = {}
    system: str = ""


class Answers(Struct, frozen=True, kw_only=True):
    """What the model said to a task; documents that failed are not among them.

    Attributes:
        digest: That of the plan.
        planned: Ids of all documents that were asked.
        docs: Ids of those that were answered, rising.
        responses: For each of them, for each request: its texts, or log-likelihood and greedy.
    """

    digest: str
    planned: tuple[int, ...]
    docs: tuple[int, ...]
    responses: tuple[tuple[Any, ...], ...]


class Series(Struct, frozen=True, kw_only=True):
    """One metric of one task under one filter.

    Attributes:
        task, metric, filter: Which one.
        value: lm-eval's aggregate.
        stderr: lm-eval's standard error; None where it gives none.
        mean: Whether lm-eval aggregates by the mean.
        higher_is_better: Direction.
        docs: Ids of the documents with a value.
        values: Their values; a list of values where a document has several; None for what is no
            number.
        spread: Standard error by a delete-a-group jackknife, where the aggregate is no mean.
        groups: Groups of the jackknife.
        no_spread: Why the jackknife gave nothing, where it was tried; else ''.
    """

    task: str
    metric: str
    filter: str
    value: float | None
    stderr: float | None = None
    mean: bool = True
    higher_is_better: bool = True
    docs: tuple[int, ...] = ()
    values: tuple[float | tuple[float, ...] | None, ...] = ()
    spread: float | None = None
    groups: int = 0
    no_spread: str = ""


class GroupValue(Struct, frozen=True, kw_only=True):
    """One aggregate that lm-eval makes of a group's tasks.

    Attributes:
        inner: Whether the group is part of another one.
    """

    group: str
    metric: str
    filter: str
    value: float
    stderr: float | None
    tasks: tuple[str, ...]
    higher_is_better: bool = True
    inner: bool = False


class Scored(Struct, frozen=True, kw_only=True):
    """What :func:`tseval.lm_eval_tasks.worker.score` answers."""

    series: tuple[Series, ...]
    groups: tuple[GroupValue, ...] = ()


def canonical(turns: list[dict[str, Any]], prefill: str) -> str:
    """Write a context down; equal contexts give equal texts."""
    plain = [[str(turn["role"]), str(turn["content"])] for turn in turns]
    return json.dumps([plain, prefill], ensure_ascii=False)


def digest(parts: Any) -> str:
    """Hash plain values: 64 hexadecimal digits."""
    return sha256(json.dumps(parts, ensure_ascii=False).encode(errors="surrogatepass")).hexdigest()
