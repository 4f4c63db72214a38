"""``sft``: train a model on finished answers, a teacher's or another training's.

A row holds a prompt (``prompt``, ``question`` or ``instruction``) and an answer (``response``,
``answer``, ``output`` or ``completion``). The thinking trace stands before the answer in tags, of
which the opening one may be missing, or in a field of its own (``trace``, ``thinking``,
``reasoning`` or ``reasoning_content``). ``label`` or ``kind`` says harmful or benign. The data of
SafeChain and STAR-1 are of this form, and so is ``data/train.jsonl`` of any training here.

Source: SafeChain (arXiv 2502.12025) and STAR-1 (arXiv 2504.01903), comparisons of arXiv 2601.23143.
Differs: Unclosed, empty and looping rows, duplicates, and prompts near to evaluated ones are
dropped and counted.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tseval.data import prompt_key
from tseval.errors import ConfigError, DataError, TrainingError
from tseval.formats import NO_FORMAT
from tseval.roles import TrainerCard
from tseval.thinking import parse

from .records import Example, Fall, Fitted, Gathered, Prompt, PromptKind, Recipe
from .thinksafe import OPTIONS as OWN_OPTIONS
from .thinksafe import check_options

if TYPE_CHECKING:
    from tseval.session import Session
    from tseval.tables import RawRow

    from .job import Job

ANSWER_FIELDS = ("response", "answer", "output", "completion")
TRACE_FIELDS = ("trace", "thinking", "reasoning", "reasoning_content")
OPTIONS = {
    "exclude": OWN_OPTIONS["exclude"],
    "kind": "what rows without a label are: 'harmful' (default) or 'benign'",
}


class Lesson(NamedTuple):
    """One row of a teacher's.

    Attributes:
        prompt: What was asked.
        trace: Without its marks; '' if there is none.
        answer: What follows it; None if the trace never closed.
    """

    prompt: Prompt
    trace: str
    answer: str | None


class Sft:
    """The trainer; see the module's docstring."""

    card = TrainerCard(
        name="sft",
        summary="finished answers of a teacher: SafeChain, STAR-1, or another training's data",
        takes=("teacher",),
        judges=False,
        paper="arXiv 2502.12025, arXiv 2504.01903",
        options=OPTIONS,
        unread=("draws",),
    )

    async def gather(self, session: "Session", job: "Job") -> Gathered:
        """Read and filter the files; see ``tseval.roles.Trainer``."""
        from .synthesis import thinks

        check_options(job.recipe, OPTIONS)
        if not job.recipe.teacher:
            raise ConfigError("sft has nothing to learn from", hint="give --teacher FILE")
        gathered = await asyncio.to_thread(gather_lessons, job, thought=thinks(session))
        if job.recipe.select != "deliberative":
            return gathered
        raise ConfigError(
            "--select deliberative replays the model's own traces, and these are a teacher's",
            hint="leave --select out, or train thinksafe",
        )

    def fit(self, gathered: Gathered, job: "Job") -> Fitted:
        """Fit an adapter; see ``tseval.train.sft``."""
        from .sft import fit

        return fit(gathered, job)


def gather_lessons(job: "Job", *, thought: bool) -> Gathered:
    """Read a recipe's teacher files, and filter what they hold; blocks.

    Args:
        job: The training.
        thought: Whether the model writes thinking traces; where it does not, they are left out.

    Raises:
        ConfigError: A file that does not exist, or an option that is wrong.
        DataError: Rows that cannot be read, or lack a needed field.
        TrainingError: Nothing is left.
    """
    from .accepted import make_example, require_some

    recipe = job.recipe
    lessons = [lesson for source in recipe.teacher for lesson in read_lessons(source, recipe)]
    if not lessons:
        raise DataError(
            f"{', '.join(recipe.teacher)}: no rows", hint="give a file of prompts and answers"
        )
    prompts, rows, dropped = choose_lessons(lessons, job)
    examples: list[Example] = []
    falls: list[Fall] = []
    for kind in dict.fromkeys(prompt.kind for prompt in prompts):
        mine = [row for row in rows if row.prompt.kind == kind]
        kept, steps = filter_lessons(mine, kind, thought=thought)
        falls += steps
        examples += [
            make_example(
                lesson.prompt,
                trace=lesson.trace if thought else "",
                answer=lesson.answer or "",
                thought=thought,
            )
            for lesson in kept
        ]
    if not examples:
        require_some(examples, falls, [falls[0].kind] if falls else ["harmful"])
    traces = sum(bool(lesson.trace) for lesson in rows)
    return Gathered(
        examples=tuple(examples),
        prompts=dict(Counter(prompt.kind for prompt in prompts)),
        falls=tuple(falls),
        dropped=dropped,
        notes=()
        if thought or not traces
        else (f"{traces} traces are left out: the model writes no thinking trace",),
    )


def choose_lessons(
    lessons: Sequence[Lesson], job: "Job"
) -> tuple[tuple[Prompt, ...], list[Lesson], dict[str, int]]:
    """Keep the rows whose prompt may be trained on, each in its own spelling.

    Returns:
        The prompts, each once, whatever case and blanks it is written in; the rows that ask
        one of them; and how many rows do not, by reason.

    Raises:
        TrainingError: Nothing is left.
    """
    from .prompts import sift

    asked = (lesson.prompt for lesson in lessons)
    prompts, fates = sift(asked, job.recipe, job.registry, job.evaluated)
    reasons = [fates.get(prompt_key(lesson.prompt.text)) for lesson in lessons]
    dropped = dict(Counter(why for why in reasons if why is not None))
    if not prompts:
        shown = ", ".join(f"{n} {why}" for why, n in dropped.items())
        raise TrainingError(
            f"none of {len(lessons)} answers is left to train on ({shown})",
            hint="give some to prompts that neither --eval-suite asks nor -T exclude names",
        )
    kept = [lesson for lesson, why in zip(lessons, reasons, strict=True) if why is None]
    return prompts, kept, dropped


def read_lessons(source: str, recipe: Recipe) -> Iterator[Lesson]:
    """Read a teacher's rows: a file, or 'safechain'; errors as :func:`gather_lessons`."""
    from .prompts import (
        PROMPT_FIELDS,
        SAFECHAIN,
        label_of,
        prompt_of,
        rows_of,
        safechain_rows,
        text_of,
    )

    default = recipe.options.get("kind", "harmful")
    if default not in ("harmful", "benign"):
        raise ConfigError(f"-T kind is {default!r}", hint="harmful or benign")
    hub = source == SAFECHAIN.name
    for row in safechain_rows(recipe.data_dirs) if hub else rows_of(source):
        kind = label_of(row) or msgspec.convert(default, PromptKind)
        prompt = prompt_of(text_of(row, PROMPT_FIELDS), kind, source)
        yield Lesson(prompt, *split(row))


def split(row: "RawRow") -> tuple[str, str | None]:
    """Tell a teacher's trace from its answer; None for the answer of a trace that never closed.

    Raises:
        DataError: A row without an answer.
    """
    from .prompts import text_of

    blank = any(row.fields.get(name) == "" for name in ANSWER_FIELDS)
    answer = "" if blank else text_of(row, ANSWER_FIELDS)
    traces = (row.fields.get(name) for name in TRACE_FIELDS)
    apart = next((trace for trace in traces if isinstance(trace, str)), None)
    if apart is not None:
        return apart.strip(), answer
    parsed = parse(NO_FORMAT, answer)
    return parsed.trace, parsed.answer


def filter_lessons(
    lessons: Sequence[Lesson], kind: PromptKind, *, thought: bool
) -> tuple[list[Lesson], tuple[Fall, ...]]:
    """Drop what is unclosed, empty, stuck in a loop, or there twice; as drawn rows are.

    A row is there twice where prompt (case and blanks aside), trace and answer are equal, whatever
    file it is from; its trace counts only where that is trained on (``thought``).
    """
    from .texts import is_loop, words

    seen: set[tuple[str, str, str | None]] = set()

    def again(lesson: Lesson) -> bool:
        trace = lesson.trace if thought else ""
        row = (prompt_key(lesson.prompt.text), trace, lesson.answer)
        found = row in seen
        seen.add(row)
        return found

    steps: tuple[tuple[str, Callable[[Lesson], bool]], ...] = (
        ("closed", lambda lesson: lesson.answer is None),
        ("empty", lambda lesson: not words(lesson.answer or "")),
        ("loop", lambda lesson: is_loop(lesson.answer or "") or is_loop(lesson.trace)),
        ("duplicate", again),
    )
    falls: list[Fall] = []
    for name, drops in steps:
        kept = [lesson for lesson in lessons if not drops(lesson)]
        falls.append(Fall(step=name, kind=kind, came=len(lessons), fell=len(lessons) - len(kept)))
        lessons = kept
    return list(lessons), tuple(falls)
