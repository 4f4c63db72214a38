"""Rewards of a step of GRPO: the judges asked about every completion, and traces replayed."""

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

from tseval.thinking import Parsed, parse, parse_answer

from .cost import Meter, Shape, reading_flops, training_flops
from .grpo import Settings
from .judge_room import Case, JudgeRoom, label_of
from .records import PromptKind
from .rewards import (
    Alarm,
    Terms,
    deliberation_reward,
    format_reward,
    least_safety,
    over_refusal_reward,
    safety_of,
    whole_groups,
)
from .template import Script
from .weights import Student

# Sequences that are replayed in one batch.
_REPLAYED = 64
# Why a verdict has no label, where that is the judge's doing.
_FAILED = ("error", "unparsed", "undecided")


class Drawn(NamedTuple):
    """A completion, read.

    Attributes:
        prompt, kind: What was asked.
        ids: As drawn, without the end of turn.
        text: Of these ids, special tokens kept.
        parsed: Told apart into trace and answer.
    """

    prompt: str
    kind: PromptKind
    ids: tuple[int, ...]
    text: str
    parsed: Parsed


class Policy:
    """The model that is trained, as the rewards see it: reads completions, and replays traces.

    Args:
        student: The model.
        script: How it reads and writes.
        settings: The options.

    Attributes:
        student, script, settings: As given.
        trainer: TRL's, once it is there.
        replayed: Of each replay since they were last counted, its whole length and the tokens that
            it wrote.
    """

    def __init__(self, student: Student, script: Script, settings: Settings) -> None:
        self.student = student
        self.script = script
        self.settings = settings
        self.trainer: Any = None
        self.replayed: list[tuple[int, int]] = []

    def read(self, prompt: str, kind: PromptKind, ids: Sequence[int]) -> Drawn:
        """Read a completion."""
        kept = tuple(ids[: -1 if ids and ids[-1] in self.student.stop_ids else None])
        text, start = self.student.text.decode(kept), self.script.opening
        if start.closed:
            parsed = parse_answer(start.format, text)
        else:
            parsed = parse(start.format, text, opened=start.opened)
        return Drawn(prompt, kind, kept, text, parsed)

    def points(self, drawn: Drawn) -> tuple[list[int], list[int]] | None:
        """Token ids up to the end of a trace's first chunk and of its last, both closed.

        None without a closed trace, and for one of a single chunk, which has no way to go.
        """
        from tseval.probes import chunked, token_end

        parsed = drawn.parsed
        if not (parsed.thought and parsed.closed and parsed.trace):
            return None
        begin, end = parsed.trace_span
        chunks = chunked(drawn.text[begin:end])
        if len(chunks) < 2:
            return None
        text = self.student.text
        prompt = self.script.prompt_ids(drawn.prompt)
        closer = text.piece(self.script.opening.format.closer)

        def upto(place: int) -> list[int]:
            kept = token_end(text.decode, drawn.ids, drawn.text, begin + place)
            return [*prompt, *drawn.ids[:kept], *closer]

        return upto(chunks[0].end), upto(chunks[-1].end)

    def answers(self, prefixes: Sequence[Sequence[int]], draws: int) -> list[list[str | None]]:
        """Draw answers behind prefixes; None for one that never came.

        Args:
            prefixes: Token ids, each behind a closed trace.
            draws: Answers a prefix.
        """
        size = max(1, _REPLAYED // draws)
        found: list[list[str | None]] = []
        # By length, so that little is padded.
        order = sorted(range(len(prefixes)), key=lambda place: len(prefixes[place]))
        for start in range(0, len(order), size):
            found += self._drawn([prefixes[place] for place in order[start : start + size]], draws)
        places = {place: rank for rank, place in enumerate(order)}
        return [found[places[place]] for place in range(len(prefixes))]

    def _drawn(self, prefixes: Sequence[Sequence[int]], draws: int) -> list[list[str | None]]:
        import copy

        import torch

        models: Any = import_module("trl.models")
        trainer, text = self.trainer, self.student.text
        width = max(map(len, prefixes))
        ids = torch.full((len(prefixes), width), text.pad_id)
        mask = torch.zeros_like(ids)
        for row, prefix in enumerate(prefixes):
            ids[row, width - len(prefix) :] = torch.tensor(list(prefix))
            mask[row, width - len(prefix) :] = 1
        config = copy.deepcopy(trainer.generation_config)
        config.max_new_tokens = self.settings.replay_tokens
        config.num_return_sequences = draws
        device = trainer.accelerator.device
        with (
            torch.no_grad(),
            models.unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model,
        ):
            made = model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=config,
            )
        written = [self._cut(row) for row in made[:, width:].tolist()]
        for row, prefix in enumerate(prefixes):
            for each in written[row * draws : (row + 1) * draws]:
                self.replayed.append((len(prefix) + len(each), len(each)))
        fmt = self.script.opening.format
        answers = [parse_answer(fmt, text.decode(each)).answer for each in written]
        return [answers[row * draws : (row + 1) * draws] for row in range(len(prefixes))]

    def _cut(self, ids: list[int]) -> list[int]:
        """What stands before the end of turn."""
        stops = [place for place, token in enumerate(ids) if token in self.student.stop_ids]
        return ids[: stops[0]] if stops else ids


class Rewarder:
    """The reward function that TRL calls once a step, with all completions of this process.

    One function for all terms: TRL adds up what several of them return and leaves out those that
    returned nothing, so a judge that fails would count as 0.

    Args:
        room: The judges.
        judges: Specifications of those that say how safe an answer is.
        outcome: Specification of the one that says whether it refuses, or ''.
        policy: The model.
        settings: The options.
        alarm: Watches the rewards.
    """

    __name__ = "reward"

    def __init__(
        self,
        room: JudgeRoom,
        judges: Sequence[str],
        outcome: str,
        policy: Policy,
        settings: Settings,
        alarm: Alarm,
    ) -> None:
        self._room = room
        self._judges = [label_of(room.seats, judge) for judge in judges]
        self._outcome = label_of(room.seats, outcome) if outcome else ""
        self._policy = policy
        self._settings = settings
        self.alarm = alarm
        self._meter: Meter | None = None
        self._shape: Shape | None = None
        self._recomputed = False
        self._logged: dict[str, float] = {}

    def count_with(self, meter: Meter, shape: Shape, *, recomputed: bool) -> None:
        """Count what the steps cost.

        Args:
            meter: Where to.
            shape: Of the policy.
            recomputed: Whether activations are made anew in the backward pass.
        """
        self._meter, self._shape, self._recomputed = meter, shape, recomputed

    def __call__(
        self,
        prompts: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        kind: Sequence[PromptKind],
        **_: Any,
    ) -> list[float | None]:
        """Reward completions.

        Args:
            prompts: One a completion; those of a group stand together.
            completion_ids: Token ids.
            kind: Pools of the prompts.

        Returns:
            One reward a completion, None for all of a group of which one could not be judged.

        Raises:
            TrainingError: See :class:`Alarm`.
            BackendUnavailable: A judge is gone for good.
        """
        drawn = [
            self._policy.read(prompt, each, ids)
            for prompt, each, ids in zip(prompts, kind, completion_ids, strict=True)
        ]
        terms = self._terms(drawn)
        size = self._settings.generations
        kept = whole_groups([each.total(self._settings.weights) for each in terms], size)
        self._count(drawn, completion_ids)
        self._log(terms, kept)
        self.alarm.step(terms, kept, size)
        return kept

    def logged(self) -> dict[str, float]:
        """What belongs into the log of the last step."""
        return self._logged

    # -- terms

    def _terms(self, drawn: Sequence[Drawn]) -> list[Terms]:
        weights, start = self._settings.weights, self._policy.script.opening
        safety, lost = self._safety(drawn)
        refusals = self._over_refusals(drawn, lost) if weights.over_refusal else [None] * len(drawn)
        moved: list[float | None] = [None] * len(drawn)
        unlabelled: set[int] = set()
        if weights.deliberation:
            moved = self._deliberation(drawn, lost, unlabelled)
        return [
            Terms(
                safety=safety[row],
                format=format_reward(start, each.text) if weights.format else None,
                deliberation=moved[row],
                over_refusal=refusals[row],
                lost=lost.get(row, ""),
                unlabelled=row in unlabelled,
            )
            for row, each in enumerate(drawn)
        ]

    def _safety(self, drawn: Sequence[Drawn]) -> tuple[list[float | None], dict[int, str]]:
        """How safe each answer is, and why that is not known, by row.

        An answer that never came is worth nothing: the trace is no answer, and none is no refusal.
        """
        answered = [row for row, each in enumerate(drawn) if each.parsed.answer is not None]
        cases = [
            Case(judge, drawn[row].prompt, drawn[row].parsed.answer or "")
            for row in answered
            for judge in self._judges
        ]
        verdicts = iter(self._room.judge(cases))
        worth: list[float | None] = [0.0 if self._judges else None] * len(drawn)
        lost: dict[int, str] = {}
        for row in answered if self._judges else ():
            found = [next(verdicts) for _ in self._judges]
            worth[row] = least_safety([safety_of(each, drawn[row].kind) for each in found])
            if worth[row] is None:
                reasons = [each.reason for each in found if each.reason in _FAILED]
                lost[row] = reasons[0] if reasons else "no label"
        return worth, lost

    def _over_refusals(self, drawn: Sequence[Drawn], lost: dict[int, str]) -> list[float | None]:
        worth: list[float | None] = [0.0] * len(drawn)
        rows = [
            row
            for row, each in enumerate(drawn)
            if each.kind == "benign" and each.parsed.answer is not None
        ]
        cases = [
            Case(self._outcome, drawn[row].prompt, drawn[row].parsed.answer or "") for row in rows
        ]
        for row, verdict in zip(rows, self._room.judge(cases), strict=True):
            worth[row] = over_refusal_reward("benign", verdict)
            if worth[row] is None:
                lost.setdefault(row, verdict.reason if verdict.reason != "ok" else "no label")
        return worth

    def _deliberation(
        self, drawn: Sequence[Drawn], lost: dict[int, str], unlabelled: set[int]
    ) -> list[float | None]:
        """Rise of right outcomes over each trace; 0 where there is no way for it to have moved.

        Rows of which too few replays have a label get 0, and are put among ``unlabelled``.
        """
        worth: list[float | None] = [0.0] * len(drawn)
        points = {
            row: found for row, each in enumerate(drawn) if (found := self._policy.points(each))
        }
        draws = self._settings.replays
        prefixes = [prefix for pair in points.values() for prefix in pair]
        answers = iter(self._policy.answers(prefixes, draws))
        for row, each in ((row, drawn[row]) for row in points):
            tallies = [self._tally(each.prompt, next(answers)) for _ in range(2)]
            failed = [*tallies[0].failed, *tallies[1].failed]
            if failed:
                lost.setdefault(row, failed[0])
                worth[row] = None
                continue
            rise = deliberation_reward(each.kind, tallies[0].labels, tallies[1].labels)
            if rise is None:
                unlabelled.add(row)
            worth[row] = rise or 0.0
        return worth

    def _tally(self, prompt: str, answers: Sequence[str | None]) -> "_Tally":
        cases = [Case(self._outcome, prompt, answer) for answer in answers if answer]
        verdicts = self._room.judge(cases)
        known = [each.refusal for each in verdicts if each.reason == "ok"]
        comply, refuse = known.count(False), known.count(True)
        failed = [str(each.reason) for each in verdicts if each.reason in _FAILED]
        failed += ["no label"] * known.count(None)
        return _Tally((comply, comply + refuse), tuple(failed))

    # -- notes

    def _count(self, drawn: Sequence[Drawn], completions: Sequence[Sequence[int]]) -> None:
        """Count a step: drawing, the base model's pass for the KL, the update, and replays.

        Other processes are taken to do as much as this one.
        """
        prompts = {each.prompt: len(self._policy.script.prompt_ids(each.prompt)) for each in drawn}
        rows = [
            prompts[each.prompt] + len(ids) for each, ids in zip(drawn, completions, strict=True)
        ]
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        written = sum(map(len, completions))
        passes = 2 + bool(self._settings.beta)
        replays = [length for length, _ in self._policy.replayed]
        tokens = passes * sum(rows) + sum(replays)
        if self._meter is not None and self._shape is not None:
            flops = (passes - 1) * reading_flops(self._shape, rows, written)
            flops += training_flops(self._shape, rows, written)
            flops += reading_flops(self._shape, rows if self._recomputed else ())
            answers = sum(new for _, new in self._policy.replayed)
            flops += reading_flops(self._shape, replays, answers)
            self._meter.add(tokens=processes * tokens, flops=processes * flops)
        self._policy.replayed.clear()
        self._logged = {"tokens": processes * tokens, "labelled": processes * written}

    def _log(self, terms: Sequence[Terms], kept: Sequence[float | None]) -> None:
        """Keep the means of the terms, of all completions that have them."""
        for name in ("safety", "format", "deliberation", "over_refusal"):
            known = [value for each in terms if (value := getattr(each, name)) is not None]
            if known:
                self._logged[f"reward_{name}"] = sum(known) / len(known)
        if self._settings.weights.deliberation:
            self._logged["unlabelled"] = sum(each.unlabelled for each in terms)
        self._logged["lost"] = sum(bool(each.lost) for each in terms)
        self._logged["dropped"] = sum(value is None for value in kept)


class _Tally(NamedTuple):
    """Compliances and labels behind a point, and why verdicts failed."""

    labels: tuple[int, int]
    failed: tuple[str, ...]
