"""Measure the theory on a training: draw, judge, score, and write down what came of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct

from tseval.errors import ConfigError, TrainingError
from tseval.legs import Display, watched
from tseval.protocol import canonical_json
from tseval.requests import Subject
from tseval.runfolder import write_whole
from tseval.runner import open_session

from .filters import LOST_SHARE
from .records import Example, Fall, Prompt, PromptKind
from .synthesis import Jury, jury_of, notice_of, thinks
from .theory import LEAST_DRAWS
from .theory_draws import UNSEEN, Drawn, Key, Scored, Tally, draw, tally
from .theory_numbers import ASSUMED, Line, acceptance_lines, given_lines, law_lines
from .theory_scores import Writer, score_drawn, score_examples
from .theory_sources import Settings, answer_sets, draws_spec, pool_prompts, read_answers
from .weights import require_same

if TYPE_CHECKING:
    from tseval.plugins import Registry
    from tseval.session import Session
    from tseval.spec import RunSpec

    from .job import TrainFolder

THEORY_SCHEMA = 2
# Share of draws without a verdict above which a remark says so.
_LOST_SHARE = 0.01


class TheoryReport(Struct, frozen=True, kw_only=True):
    """``theory/theory.json``: every number, and the draws that it was made of.

    Attributes:
        settings: What was measured.
        method: Trainer.
        subject: The base model, p.
        execution: How it was run.
        judges: The guard; none where the training asks no judges, so that nothing is drawn.
        lines: The numbers.
        assumptions: What they rest on, by name.
        tallies: Draws by kind and law ('harmful · plain'), one entry a prompt.
        falls: Steps of the training's own filter, in order: what is left after the guard.
        notes: Remarks.
        tokens: Tokens that were drawn.
        schema: Of this file.
    """

    settings: Settings
    method: str
    subject: Subject
    execution: dict[str, str] = {}
    judges: tuple[str, ...]
    lines: tuple[Line, ...]
    assumptions: dict[str, str]
    tallies: dict[str, tuple[Tally, ...]]
    falls: tuple[Fall, ...] = ()
    notes: tuple[str, ...] = ()
    tokens: int = 0
    schema: int = THEORY_SCHEMA


class _Taught(NamedTuple):
    """A teacher's draws and their log-probabilities under itself, with the turn's end or not."""

    name: str
    drawn: list[Drawn]
    own: dict[Key, Scored]
    ended: bool


def theory_folder(folder: "TrainFolder") -> Path:
    """Where the theory of a training is measured: a run a model and decoding, and the report."""
    return folder.path / "theory"


def load_theory(folder: "TrainFolder") -> TheoryReport | None:
    """Read what was measured; None where nothing was, or by rules that have changed since.

    Raises:
        ConfigError: The file is broken.
    """
    file = theory_folder(folder) / "theory.json"
    try:
        found = msgspec.json.decode(file.read_bytes(), type=TheoryReport)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"cannot read {file}: {error}", hint="remove it: the same command makes it again"
        ) from error
    return found if found.schema == THEORY_SCHEMA else None


async def measure(
    folder: "TrainFolder", registry: "Registry", display: Display, settings: Settings
) -> TheoryReport:
    """Measure a training's theory, and write it down; resumes like every run.

    Args:
        folder: Of the training; its base model is loaded again, the trained one is not.
        registry: Everything that is registered.
        display: Shows progress.
        settings: What is measured.

    Raises:
        ConfigError: A size is too small, there are too few prompts, the judges cannot judge, there
            is a teacher and nothing that its answers could be compared by, or the model or a
            file is not the one that the training was made with.
        TrainingError: The guard failed too often.
        CapabilityMissing: The backend gives no log-probabilities.
        TsevalError: The run cannot go on.
    """
    settings.check()
    folder.require_same_files()
    prompts = pool_prompts(folder, registry, settings)
    spec = draws_spec(folder, registry, settings)
    if settings.teacher is None:
        report = await _measure_base(folder, registry, display, settings, prompts, None)
        assert report is not None
        return report
    _require_comparable(spec, prompts["harmful"])
    for ended in (True, False):
        taught = await _teach(folder, registry, display, settings, prompts["harmful"], ended)
        report = await _measure_base(folder, registry, display, settings, prompts, taught)
        if report is not None:
            return report
    raise AssertionError("without ends of turns no two models differ in them")


def _require_comparable(spec: "RunSpec", harmful: Sequence[Prompt]) -> None:
    """Raise ConfigError where a teacher's answers could not be compared."""
    if not harmful:
        raise ConfigError(
            "--teacher answers harmful prompts, and this training has none",
            hint="leave it out, or name a training with harmful prompts",
        )
    if not spec.judges:
        raise ConfigError(
            "--teacher needs a guard that says which answers are safe, and this training asks no"
            " judges",
            hint="--judge NAME names one; --answers FILE scores a file of its answers",
        )


async def _measure_base(
    folder: "TrainFolder",
    registry: "Registry",
    display: Display,
    settings: Settings,
    prompts: Mapping[PromptKind, Sequence[Prompt]],
    taught: _Taught | None,
) -> TheoryReport | None:
    """Measure the base model, and write the report.

    None where the teacher's answers were scored with the end of their turn, and the base model
    does not show its own: an end on one side alone would be no ratio.
    """
    examples = folder.read_examples()
    sets = answer_sets({"train.jsonl": examples}, settings)
    spec = draws_spec(folder, registry, settings)
    opened = open_session(spec, registry, display, out=_run(folder, "base", spec))
    async with opened as (session, run), watched(session, display):
        session.require("logprobs")
        require_same(folder.record.subject, session.target.subject.identity)
        work = _Work(session, settings, spec, folder)
        if taught is not None and taught.ended and work.writer.end is None:
            return None
        if any(not each.trace and not each.answer for each in examples):
            work.notes.append("examples that are prompts without answers are not scored")
        lines, tallies = await work.kinds(prompts, any(each.steered for each in examples))
        if taught is not None:
            plain = tallies["harmful · plain"]
            more, tallies["harmful · teacher"] = await work.teacher(taught, plain)
            lines += more
        sets += answer_sets(read_answers(folder, settings, thinks(session)), settings)
        for name, given in sets:
            lines += await work.given(name, given)
        report = work.report(lines, tallies, taught)
        run.manifest.status = "complete"
    write_whole(theory_folder(folder) / "theory.json", canonical_json(report))
    return report


class _Work:
    """Draws and scores in the session on the base model."""

    def __init__(
        self, session: "Session", settings: Settings, spec: "RunSpec", folder: "TrainFolder"
    ) -> None:
        self.session = session
        self.folder = folder
        self.jury = jury_of(session) if spec.judges else Jury()
        self.notice = notice_of(folder.record.recipe)
        self.most_lost = float(folder.record.recipe.options.get("lost", LOST_SHARE))
        self.settings = settings
        self.law = (spec.sampling, spec.thinking)
        self.writer = Writer(session.target, spec.thinking.mode)
        self.notes: list[str] = []

    @property
    def guard(self) -> tuple[str, ...]:
        """Labels of the judges that make the event."""
        judges = [*(self.jury.answer or (self.jury.refusal,)), *self.jury.trace]
        return tuple(dict.fromkeys(filter(None, judges)))

    async def kinds(
        self, prompts: Mapping[PromptKind, Sequence[Prompt]], steers: bool
    ) -> tuple[list[Line], dict[str, list[Tally]]]:
        """Measure the model's own law on each kind of prompts, and the steered one on harmful."""
        lines: list[Line] = []
        tallies: dict[str, list[Tally]] = {}
        if not self.guard:
            self.notes.append(
                "nothing was drawn: this training asks no judges what is safe (--judge names one)"
            )
            return lines, tallies
        for kind, chosen in prompts.items():
            if kind == "benign" and not self.jury.answer:
                self.notes.append(
                    "benign prompts: not measured, since no judge says which answers are harmful"
                )
                continue
            if not chosen:
                continue
            drawn = await self.draw(chosen, None)
            plain = tallies[f"{kind} · plain"] = tally(drawn)
            lines += acceptance_lines(plain, kind, "plain")
            if kind == "harmful" and steers:
                drawn = await self.draw(chosen, self.notice)
                own = await score_drawn(self.session, self.writer, drawn, self.notice)
                base = await score_drawn(self.session, self.writer, drawn, None)
                found = tallies[f"{kind} · steered"] = tally(drawn, own, base)
                lines += acceptance_lines(found, kind, "steered")
                lines += law_lines(found, plain, kind, "steered")
        return lines, tallies

    async def teacher(
        self, taught: _Taught, plain: Sequence[Tally]
    ) -> tuple[list[Line], list[Tally]]:
        """Measure what a teacher's accepted answers cost the model.

        A ratio has the end of the turn on both sides or on neither.
        """
        writer = Writer(self.session.target, self.law[1].mode, ended=taught.ended)
        if self.writer.end is not None and not taught.ended:
            self.notes.append(
                "the teacher's answers are scored by both models without the end of the turn,"
                " which the teacher does not show"
            )
        base = await score_drawn(self.session, writer, taught.drawn, None)
        found = tally(taught.drawn, taught.own, base)
        lines = acceptance_lines(found, "harmful", "teacher")
        return [*lines, *law_lines(found, plain, "harmful", "teacher", foreign=True)], found

    async def given(self, name: str, examples: Sequence[Example]) -> list[Line]:
        """Measure finished answers."""
        found = await score_examples(self.session, self.writer, examples)
        scored = [
            (each.prompt, value.logprob, value.tokens)
            for each in examples
            if (value := found[each.id]).logprob is not None
        ]
        drawn = all(each.draw for each in examples)
        return given_lines(
            [(prompt, logprob or 0.0, tokens) for prompt, logprob, tokens in scored],
            name,
            drawn=drawn,
            lost=len(examples) - len(scored),
        )

    def report(
        self, lines: list[Line], tallies: dict[str, list[Tally]], taught: _Taught | None
    ) -> TheoryReport:
        """Put together what was measured."""
        record, subject = self.folder.record, self.session.target.subject
        return TheoryReport(
            settings=self.settings,
            method=record.recipe.method,
            subject=msgspec.structs.replace(subject, execution={}),
            execution=subject.execution,
            judges=self.guard,
            lines=tuple(lines),
            assumptions=_assumptions(lines, self),
            tallies={name: tuple(found) for name, found in tallies.items()},
            falls=record.gathered.falls if record.gathered is not None else (),
            notes=tuple([*self._other_guard(), *self.notes, *_notes(tallies, taught)]),
            tokens=sum(each.tokens for found in tallies.values() for each in found),
        )

    def _other_guard(self) -> list[str]:
        """Say that the guard is not the training's own, where it is another."""
        if not self.settings.judges:
            return []
        own = " and ".join(self.folder.record.recipe.judges) or "none"
        return [
            f"the guard of these numbers is {' and '.join(self.guard)}, by --judge; the training's"
            f" own ({own}) accepted its examples"
        ]

    async def draw(self, prompts: Sequence[Prompt], notice: str | None) -> list[Drawn]:
        """Draw and judge; raises TrainingError where the guard failed too often."""
        drawn = await draw(
            self.session, self.jury, prompts, notice=notice, draws=self.settings.draws, law=self.law
        )
        lost = sum(each.why == "no verdict" for each in drawn)
        judged = sum(each.why not in UNSEEN for each in drawn)
        if lost > self.most_lost * judged:
            raise TrainingError(
                f"the guard ({' and '.join(self.guard)}) gave no verdict on {lost} of {judged}"
                f" draws, more than {100 * self.most_lost:g}%",
                hint="what it cannot read may be what it would find unsafe: take another judge",
            )
        return drawn


async def _teach(
    folder: "TrainFolder",
    registry: "Registry",
    display: Display,
    settings: Settings,
    prompts: Sequence[Prompt],
    ended: bool,
) -> _Taught:
    """Draw a teacher's answers, and score them under the teacher itself; resumes."""
    assert settings.teacher is not None
    spec = msgspec.structs.replace(draws_spec(folder, registry, settings), model=settings.teacher)
    opened = open_session(spec, registry, display, out=_run(folder, "teacher", spec))
    async with opened as (session, _), watched(session, display):
        session.require("logprobs")
        work = _Work(session, settings, spec, folder)
        writer = Writer(session.target, spec.thinking.mode, ended=ended)
        drawn = await work.draw(prompts, None)
        own = await score_drawn(session, writer, drawn, None)
        return _Taught(session.target.subject.name, drawn, own, writer.end is not None)


def _run(folder: "TrainFolder", who: str, spec: "RunSpec") -> Path:
    """Name the run that the draws are kept in; others of another seed or length stand beside."""
    return theory_folder(folder) / f"{who}-{spec.hash}"


def _assumptions(lines: Sequence[Line], work: _Work) -> dict[str, str]:
    sampling, thinking = work.law
    tokens = f"{sampling.answer_tokens}"
    if work.writer.start.format.thinks:
        tokens = f"{thinking.budget} thinking and {sampling.answer_tokens} answer"
    known = work.writer.end is not None
    filled = {
        "tokens": tokens,
        "judges": " and ".join(work.guard),
        "end": "the end of the turn included" if known else "without the end of the turn",
        "model": work.session.target.subject.name,
        "notice": work.notice,
        "least": LEAST_DRAWS,
    }
    used = {key for line in lines for key in line.assumes}
    return {key: text.format(**filled) for key, text in ASSUMED.items() if key in used}


def _notes(tallies: Mapping[str, Sequence[Tally]], taught: _Taught | None) -> list[str]:
    notes = []
    for name, found in tallies.items():
        asked = sum(each.draws for each in found)
        lost = sum(
            each.why.get(why, 0) for each in found for why in ("no verdict", "failed", "overlong")
        )
        if lost > _LOST_SHARE * (asked + lost):
            notes.append(
                f"{name}: {lost} of {asked + lost} draws have no verdict, and are left out"
            )
        rewritten = sum(each.rewritten for each in found)
        if rewritten:
            notes.append(
                f"{name}: {rewritten} answers were scored as the model would write them, since not"
                " all of their tokens are known"
            )
    if taught is not None:
        notes.append(f"the teacher is {taught.name}; no file of its answers is read for its KL")
    return notes
