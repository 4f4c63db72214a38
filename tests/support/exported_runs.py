"""Runs to export: a model that thinks and writes hostile texts, two judges, several rollouts."""

import asyncio
from pathlib import Path
from typing import Any

from tests.support.labelled_runs import Display
from tests.support.sessions import AskingJudge
from tseval.hookspecs import hookimpl
from tseval.plugins import Registry, load_registry
from tseval.requests import ModelSpec
from tseval.runfolder import RunFolder
from tseval.runner import run
from tseval.spec import RunSpec
from tseval.testing import TAGS_VIEW, Call, ScriptedBackend
from tseval.types import Thinking

# One mark each that no export of a published kind, and no redacted one, may hold.
IN_ANSWER, IN_TRACE = "answered-mark", "traced-mark"
HOSTILE = (
    f"{IN_ANSWER} <script>alert(1)</script> =cmd|' /C calc'!A0 \x1b[31mred \u202eevil | cell\n---\n"
    "</think> {{ x }} ]]> \x00 \ufeff \u2028 end"
)
NAME = "evil/<b>model</b>\u202e: |\n---"


def hostile(call: Call) -> str:
    """Think, then refuse now and then, else write what programs might act on."""
    trace = f"{IN_TRACE} \u202e<i>hm</i>"
    answer = "I'm sorry, but I can't help with that." if call.share("r") < 0.4 else HOSTILE
    return f"<think>{trace}</think>{answer}"


class Judges:
    """Registers a second judge, which quotes the answer in what it writes."""

    @hookimpl
    def register_judges(self, register: Any) -> None:
        register(AskingJudge())


def registry() -> Registry:
    """The built-in plugins and the second judge."""
    return load_registry(extra=[Judges()])


def exported_run(folder: Path, *, script: Any = hostile, name: str = NAME, **more: Any) -> Path:
    """Run the quick benchmarks on a scripted model that thinks."""
    fields: dict[str, Any] = {
        "benchmarks": ("quick_harmful", "quick_benign"),
        "suites": ("quick",),
        "judges": ("refusal-rules", "asking"),
        "rollouts": 2,
        "thinking": Thinking(budget=400),
        "system_prompt": "Be brief.",
    }
    spec = RunSpec(model=ModelSpec(backend="scripted"), **(fields | more))
    backend = ScriptedBackend(script=script, name=name, view=TAGS_VIEW)
    asyncio.run(run(spec, registry(), Display(), out=folder, backend=backend))
    return RunFolder.load(folder).path
