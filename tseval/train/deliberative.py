"""Weights for accepted traces: how far the answer moves where a trace turns to the right side.

Letters: a cut is a turn of stance; c of n replays comply before it and after it. The right side is
to refuse a harmful prompt and to answer a benign one. e in [0, 1] is the effect of a trace.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from tseval.errors import ConfigError, TrainingError, TsevalError
from tseval.judging import Seat, seat_judges
from tseval.protocol import canonical_json
from tseval.rollouts import Continuation
from tseval.runfolder import write_whole
from tseval.scoring import text_to_judge
from tseval.stance_judging import seat_stances
from tseval.stances import COMPLYING, REFUSING, StanceCase
from tseval.types import Rollout, Sampling

from .records import Example, Gathered, PromptKind, Recipe

if TYPE_CHECKING:
    from tseval.probes import Transition
    from tseval.session import Session

    from .job import Job

# For the cards of trainers that select, under the names that :func:`read_settings` reads.
OPTIONS = {
    "stance-judge": "what labels the chunks of traces, for --select deliberative (stance-rules)",
    "cuts": "most turns of stance that are replayed of a trace (2)",
    "replays": "answers behind each side of a turn (16)",
    "strength": "weight of a trace whose answer turns round wholly, over that of one where it "
    "does not move: 1 + strength (4)",
}
RIGHT: dict[PromptKind, int] = {"harmful": REFUSING, "benign": COMPLYING}
# Whether an answer refuses shows in its first words.
_ANSWER_TOKENS = 256
_MOST_LOST = 0.5


class Settings(Struct, frozen=True, kw_only=True, rename="kebab"):
    """How traces are weighed; see :data:`OPTIONS`."""

    stance_judge: str = "stance-rules"
    cuts: int = 2
    replays: int = 16
    strength: float = 4.0


class Replayable(Struct, frozen=True, kw_only=True):
    """A trace with the turns that will be replayed.

    Attributes:
        example: Its place among the examples.
        id: Of the example: names its replays whatever else is weighed.
        prompt: What the model is asked: without the steering notice, as it is trained.
        turns: Points before and after each turn, in chunks.
        prefixes: What stands before each point, by its chunks: token ids, or text.
    """

    example: int
    id: str
    prompt: str
    turns: tuple[tuple[int, int], ...]
    prefixes: dict[int, tuple[int, ...] | str]


class Effect(Struct, frozen=True, kw_only=True):
    """What became of a trace.

    Attributes:
        id: Of its example.
        kind: Which pool.
        cuts: Turns to the right side that were replayed and have labels enough.
        effect: e; 0 without cuts.
        weight: In the loss, 1 on average over the pool.
        note: Why there are no cuts, or ''.
    """

    id: str
    kind: PromptKind
    cuts: int = 0
    effect: float = 0.0
    weight: float = 1.0
    note: str = ""


async def weigh(session: "Session", job: "Job", gathered: Gathered) -> Gathered:
    """Weight examples by the causal effect of their traces' turns.

    Every turn of stance to the right side is replayed: the trace is closed before it and after it,
    and the model asked for answers at both points, to the prompt as it will be trained on. The
    effect e of a trace is the mean rise of the right answers over its turns, at least 0; its weight
    1 + strength * e. A trace that only narrates has e = 0, and one without a turn counts as such:
    it stays, with the least weight. Weights are 1 on average within each pool, so that the balance
    of refusals and answers, and with it over-refusal, is what it is without them.

    Everything is asked through the session: it resumes. ``data/deliberation.json`` has the effects.

    Args:
        session: Its target is the model that is trained.
        job: Whose recipe has the options.
        gathered: With the accepted examples.

    Returns:
        The same with the examples' weights, and notes that say what there was to weigh.

    Raises:
        CapabilityMissing: The backend continues no traces.
        ConfigError: An option is wrong.
        TrainingError: Half of the replays or more have no label.

    Source: arXiv 2606.25013 asks for training that rewards deliberation and gives no method.
    Differs: All of it: only turns to the right side count, rates are shrunk by Jeffreys' prior.
    """
    settings, examples = read_settings(job.recipe), gathered.examples
    if not any(example.thought and example.trace for example in examples):
        return _noted(gathered, ["no trace to weigh: all weights are 1"])
    session.require("prefix", "token_ids")
    _seat(session, settings)
    notes: dict[int, str] = {}
    work: list[Replayable] = []
    job.display.phase("finding turns of stance", None)
    async for place, found in session.map(
        range(len(examples)), lambda place: _turns(session, examples[place], place, settings)
    ):
        if isinstance(found, Replayable):
            work.append(found)
        else:
            notes[place] = found if isinstance(found, str) else "error"
    work.sort(key=lambda each: each.example)
    counts = await _replay(session, job, work, settings)
    effects = _effects(examples, work, counts, notes, settings)
    await asyncio.to_thread(_write, job, effects)
    weighed = tuple(
        msgspec.structs.replace(example, weight=effect.weight)
        for example, effect in zip(examples, effects, strict=True)
    )
    tokens = gathered.tokens + sum(counts[k, point][TOKENS] for k, point in counts)
    gathered = msgspec.structs.replace(gathered, examples=weighed, tokens=tokens)
    return _noted(gathered, _summary(effects, settings))


def read_settings(recipe: Recipe) -> Settings:
    """Read the ``-T`` options of a recipe; raises ConfigError for a value that is none."""
    given = {name: value for name, value in recipe.options.items() if name in OPTIONS}
    try:
        settings = msgspec.convert(given, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"-T options of --select deliberative: {error}") from None
    if settings.cuts < 1 or settings.replays < 2 or settings.strength < 0:
        raise ConfigError(
            f"cannot weigh by {settings.cuts} cuts, {settings.replays} replays and a strength of"
            f" {settings.strength:g}",
            hint="at least 1 cut, 2 replays, and a strength of 0 or more",
        )
    return settings


def shrunk_rise(before: tuple[int, int], after: tuple[int, int], side: int) -> float:
    """Rise of the rate of answers on a side, each rate shrunk by Jeffreys' prior.

    Args:
        before: Compliances, and answers with a label.
        after: Likewise, behind the turn.
        side: -1 to refuse, 1 to comply.
    """
    rates = [(comply + 0.5) / (n + 1) for comply, n in (before, after)]
    return (rates[1] - rates[0]) * side


def weights_of(effects: Sequence[float], strength: float) -> tuple[float, ...]:
    """Weights of the traces of one pool: 1 + strength * e, over their mean."""
    raw = [1.0 + strength * effect for effect in effects]
    mean = sum(raw) / len(raw) if raw else 1.0
    return tuple(each / mean for each in raw)


def _seat(session: "Session", settings: Settings) -> None:
    """Seat a stance judge and a judge of refusals where the session has none."""
    if not session.stances.seats:
        seats = seat_stances((settings.stance_judge,), session.registry)
        if any(seat.spec is not None for seat in seats.values()):
            raise ConfigError(
                f"stance judge {settings.stance_judge!r} asks a model, which is not loaded here",
                hint="-T stance-judge=stance-rules",
            )
        session.stances.seats.update(seats)
    if _refusal_seat(session) is None:
        session.seats.update(seat_judges(("refusal-rules",), session.registry))


def _refusal_seat(session: "Session") -> Seat | None:
    seats = session.seats.values()
    return next((seat for seat in seats if "refusal" in seat.judge.card.labels), None)


async def _turns(
    session: "Session", example: Example, place: int, settings: Settings
) -> Replayable | str:
    """Find the turns of a trace to the right side; or say why it has none."""
    from tseval.probes import MOST_CHUNKS, chunked, token_end, transitions

    if not example.thought or not example.trace:
        return "no trace"
    decode = session.target.backend.decode
    ids = _ids_of(session, example)
    text = decode(ids) if ids else example.trace
    chunks = chunked(text)
    if len(chunks) < 2 or len(chunks) > MOST_CHUNKS:
        return "fewer than 2 chunks" if len(chunks) < 2 else "loop"
    label = next(seat.label for seat in session.stances.seats.values() if seat.shown)
    case = StanceCase(prompt=example.prompt, chunks=tuple(chunk.text for chunk in chunks))
    said = await session.stances.label(label, case)
    if said.labels is None:
        return f"stances {said.reason}"
    right = RIGHT[example.kind]
    turns = [turn for turn in transitions(said.labels) if turn.after == right]
    if not turns:
        return "no turn to the right side"
    turns = _some(turns, settings.cuts, seed=session.spec.seed, name=example.id)
    points = sorted({point for turn in turns for point in (turn.pre, turn.post)})
    ends = {point: chunks[point - 1].end for point in points}
    prefixes: dict[int, tuple[int, ...] | str] = {
        point: ids[: token_end(decode, ids, text, end)] if ids else text[:end]
        for point, end in ends.items()
    }
    return Replayable(
        example=place,
        id=example.id,
        prompt=example.prompt,
        turns=tuple((turn.pre, turn.post) for turn in turns),
        prefixes=prefixes,
    )


def _some(turns: list["Transition"], most: int, *, seed: int, name: str) -> list["Transition"]:
    """Draw so many turns of a trace, the same ones whatever else is weighed."""
    from tseval.probes import choose_cuts, seeded_generator

    rng = seeded_generator(seed, "deliberative", name)
    return [turns[place] for place in choose_cuts([0] * len(turns), most, rng)]


def _ids_of(session: "Session", example: Example) -> tuple[int, ...]:
    """Token ids of a trace as the model wrote it; () for one that came from elsewhere."""
    data = session.journal.find(example.draw) if example.draw else None
    rollout = msgspec.json.decode(data, type=Rollout) if data is not None else None
    return (rollout.trace_ids or ()) if rollout is not None else ()


Counts = dict[tuple[int, int], Counter[str]]
# Among the labels of a point: how many tokens its answers took.
TOKENS = "tokens"


async def _replay(
    session: "Session", job: "Job", work: Sequence[Replayable], settings: Settings
) -> Counts:
    """Answer behind every point; labels by trace and point."""
    counts: Counts = {
        (k, point): Counter() for k, each in enumerate(work) for point in each.prefixes
    }
    seat = _refusal_seat(session)
    assert seat is not None
    total, done = len(counts) * settings.replays, 0

    def items() -> Iterator[tuple[int, int, int]]:
        for k, point in counts:
            for replay in range(settings.replays):
                yield k, point, replay

    async def one(item: tuple[int, int, int]) -> tuple[str, int]:
        k, point, replay = item
        return await _label(session, job, seat, work[k], point, replay)

    lost = 0
    async for (k, point, _), found in session.map(items(), one):
        label, tokens = ("error", 0) if isinstance(found, TsevalError) else found
        counts[k, point].update({label: 1, TOKENS: tokens})
        lost += label not in ("refusal", "compliance")
        done += 1
        if done % 64 == 0 or done == total:
            job.display.phase("replaying turns of stance", done / total)
    if total and lost >= _MOST_LOST * total:
        reasons = sum(counts.values(), Counter[str]())
        shown = ", ".join(f"{n} {name}" for name, n in sorted(reasons.items()) if name != TOKENS)
        raise TrainingError(
            f"{lost} of {total} replays have no label ({shown})",
            hint="raise the answer's tokens, take another judge of refusals, or --select all",
        )
    return counts


async def _label(
    session: "Session", job: "Job", seat: Seat, trace: Replayable, point: int, replay: int
) -> tuple[str, int]:
    """Close a trace at a point, have it answered, and say what the answer is, and its length."""
    recipe = job.recipe
    rollout = await session.extend(
        trace.prompt,
        Continuation(prefix=(trace.prefixes[point],)),
        rollout=replay,
        stream=f"deliberative {trace.id} {point}",
        sampling=_short(recipe.sampling),
        thinking=recipe.thinking,
    )
    tokens = rollout.answer_tokens or 0
    text, lost = text_to_judge(rollout, "answer", "exclude")
    if lost or "reopened" in rollout.notes:
        return lost or "reopened", tokens
    _, verdict = await session.judge(seat.label, trace.prompt, text, sees="answer")
    if verdict.reason != "ok" or verdict.refusal is None:
        return verdict.reason if verdict.reason != "ok" else "unparsed", tokens
    return "refusal" if verdict.refusal else "compliance", tokens


def _short(sampling: Sampling) -> Sampling:
    tokens = min(sampling.answer_tokens, _ANSWER_TOKENS)
    return msgspec.structs.replace(sampling, answer_tokens=tokens)


def _effects(
    examples: Sequence[Example],
    work: Sequence[Replayable],
    counts: Counts,
    notes: dict[int, str],
    settings: Settings,
) -> list[Effect]:
    """Turn counts into effects and weights."""
    found = [
        Effect(id=example.id, kind=example.kind, note=notes.get(place, ""))
        for place, example in enumerate(examples)
    ]
    for k, trace in enumerate(work):
        side = RIGHT[examples[trace.example].kind]
        rises = []
        for pre, post in trace.turns:
            before, after = _tally(counts[k, pre]), _tally(counts[k, post])
            if 2 * min(before[1], after[1]) >= settings.replays:
                rises.append(shrunk_rise(before, after, side))
        effect = max(0.0, sum(rises) / len(rises)) if rises else 0.0
        found[trace.example] = msgspec.structs.replace(
            found[trace.example],
            cuts=len(rises),
            effect=effect,
            note="" if rises else "too few labels",
        )
    for kind in RIGHT:
        places = [place for place, each in enumerate(found) if each.kind == kind]
        weights = weights_of([found[place].effect for place in places], settings.strength)
        for place, weight in zip(places, weights, strict=True):
            found[place] = msgspec.structs.replace(found[place], weight=weight)
    return found


def _tally(labels: Counter[str]) -> tuple[int, int]:
    return labels["compliance"], labels["compliance"] + labels["refusal"]


def _write(job: "Job", effects: Sequence[Effect]) -> None:
    """Write what each trace came to; raises JournalError."""
    job.folder.data.mkdir(parents=True, exist_ok=True)
    rows = {"traces": [msgspec.to_builtins(effect) for effect in effects]}
    write_whole(job.folder.data / "deliberation.json", canonical_json(rows))


def _summary(effects: Sequence[Effect], settings: Settings) -> list[str]:
    """Say what there was to weigh."""
    said = []
    for kind in RIGHT:
        pool = [effect for effect in effects if effect.kind == kind]
        if not pool:
            continue
        moved = [effect.effect for effect in pool if effect.cuts]
        mean = f", mean effect {sum(moved) / len(moved):.2f}" if moved else ""
        weights = [effect.weight for effect in pool]
        worth = sum(weights) ** 2 / sum(weight**2 for weight in weights)
        said.append(
            f"{kind}: {len(moved)} of {len(pool)} traces have turns that were replayed"
            f" ({settings.replays} answers a side){mean}; weights {min(weights):.2f} to"
            f" {max(weights):.2f}, worth {worth:.0f} equal ones"
        )
    return said


def _noted(gathered: Gathered, remarks: list[str]) -> Gathered:
    notes = (*gathered.notes, *(f"select deliberative: {remark}" for remark in remarks))
    return msgspec.structs.replace(gathered, notes=notes)
