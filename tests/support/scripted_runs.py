"""Runs on prompts, answers and judges that a test makes up: one benchmark, read from a file."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.labelled_runs import Display
from tests.support.sessions import finish
from tseval.cards import BenchmarkCard, Columns, Source
from tseval.hookspecs import hookimpl
from tseval.plugins import Registry, load_registry
from tseval.prompt_benchmark import PromptBenchmark
from tseval.requests import ModelSpec
from tseval.roles import JudgeCard, JudgeCase, JudgeModel
from tseval.runfolder import RunFolder
from tseval.runner import run
from tseval.scripts import TAGS_VIEW, Call
from tseval.spec import RunSpec
from tseval.testing import ScriptedBackend
from tseval.types import Verdict

Says = Callable[[JudgeCase], Verdict]


class Saying:
    """A judge that says what a function says."""

    def __init__(self, name: str, says: Says, labels: tuple[Any, ...] = ("refusal",)) -> None:
        self.card = JudgeCard(name=name, version="1", labels=labels)
        self._says = says

    async def judge(self, case: JudgeCase, model: JudgeModel | None) -> Verdict:
        return self._says(case)


class Plugin:
    """Registers the benchmark and the judges."""

    def __init__(self, card: BenchmarkCard, judges: Sequence[Saying]) -> None:
        self.card = card
        self.judges = judges

    @hookimpl
    def register_benchmarks(self, register: Any) -> None:
        register(PromptBenchmark(self.card))

    @hookimpl
    def register_judges(self, register: Any) -> None:
        for judge in self.judges:
            register(judge)


def made_run(
    folder: Path,
    rows: Sequence[Mapping[str, str]],
    script: Callable[[Call], str],
    judges: Sequence[Saying],
    *,
    model: str = "scripted",
    rollouts: int = 1,
    benchmark: str = "made_up",
    **more: Any,
) -> RunFolder:
    """Run a benchmark of made-up rows.

    Args:
        folder: The run's, new; its rows are written beside it.
        rows: With 'id', 'prompt', 'label' ('bad' or 'good') and 'group'.
        script: What the model writes, in think tags if it likes.
        judges: The judges.
        model: Its name.
        rollouts: A prompt.
        benchmark: Its name.
        more: Fields of the specification.
    """
    data = folder.parent / f"{folder.name}-data"
    data.mkdir(parents=True)
    with (data / f"{benchmark}.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    columns = Columns(id="id", label="label", group="group", tags=("tag",))
    card = BenchmarkCard(
        name=benchmark,
        title="Made up",
        kind="mixed",
        summary="prompts made up for a test",
        metrics=("asr_nonrefusal", "asr_harmful", "orr"),
        source=Source(hub="none/none", columns=columns),
        local=(columns,),
        labels={"bad": "harmful", "good": "benign"},
        expected_rows=len(rows),
        licence="none",
        paper="none",
    )
    spec = RunSpec(
        model=ModelSpec(backend="scripted", name=model),
        benchmarks=(benchmark,),
        judges=tuple(judge.card.name for judge in judges),
        rollouts=rollouts,
        data_dirs=(str(data),),
        **more,
    )
    backend = ScriptedBackend(script, name=model, view=TAGS_VIEW)
    registry: Registry = load_registry(extra=[Plugin(card, judges)])
    finish(run(spec, registry, Display(), out=folder, backend=backend), 120)
    return RunFolder.load(folder)
