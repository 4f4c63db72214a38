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
from tseval.stances import StanceCase
from tseval.types import Rollout, Sampling

from .effects import RIGHT, Effect, Rise, effects_of, shrunk_rise, summary
from .records import Example, Gathered, Recipe

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
        side: Of the right answer, -1 to refuse.
        prompt: What the model is asked: without the steering notice, as it is trained.
        turns: Points before and after each turn, in chunks.
        prefixes: What stands before each point, by its chunks: token ids, or text.
    """

    example: int
    id: str
    side: int
    prompt: str
    turns: tuple[tuple[int, int], ...]
    prefixes: dict[int, tuple[int, ...] | str]


async def weigh(session: "Session", job: "Job", gathered: Gathered) -> Gathered:
    """Weight examples by the causal effect of their traces' turns.

    Every turn of stance to the right side is replayed: the trace is closed before it and after it,
    and the model asked for answers at both points, to the prompt as it will be trained on. The
    effect e of a trace is the mean rise of the right answers over its turns, less the standard
    error of that and at least 0; its weight 1 + strength * e. A trace that only narrates has an e
    near 0, and one without a turn counts as having none: it stays, with the least weight. Weights
    are 1 on average within each pool, so that the balance of refusals and answers, and with it
    over-refusal, is what it is without them.

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
    rises = {each.example: _rises(k, each, counts, settings) for k, each in enumerate(work)}
    effects = effects_of(examples, rises, notes, settings.strength)
    await asyncio.to_thread(_write, job, effects)
    weighed = tuple(
        msgspec.structs.replace(example, weight=effect.weight)
        for example, effect in zip(examples, effects, strict=True)
    )
    tokens = gathered.tokens + sum(counts[k, point][TOKENS] for k, point in counts)
    gathered = msgspec.structs.replace(gathered, examples=weighed, tokens=tokens)
    return _noted(gathered, summary(effects, settings.replays))


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
        side=right,
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
# Among the labels of a point: how many tokens its answers took, and what they were drawn behind.
TOKENS, READ = "tokens", "tokens read"


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

    async def one(item: tuple[int, int, int]) -> Counter[str]:
        k, point, replay = item
        return await _label(session, job, seat, work[k], point, replay)

    before = session.counts["extension.made"]
    async for (k, point, _), found in session.map(items(), one):
        counts[k, point] += Counter({"error": 1}) if isinstance(found, TsevalError) else found
        done += 1
        if done % 64 == 0 or done == total:
            job.display.phase("replaying turns of stance", done / total)
    reasons = sum(counts.values(), Counter[str]())
    tokens, read = reasons.pop(TOKENS, 0), reasons.pop(READ, 0)
    # What an earlier process drew has been counted there; replays are alike in length.
    new = (session.counts["extension.made"] - before) / max(total, 1)
    session.counts["replay.tokens"] += round(new * tokens)
    session.counts["replay.prompt_tokens"] += round(new * read)
    lost = total - reasons["refusal"] - reasons["compliance"]
    if total and lost >= _MOST_LOST * total:
        shown = ", ".join(f"{n} {name}" for name, n in sorted(reasons.items()))
        raise TrainingError(
            f"{lost} of {total} replays have no label ({shown})",
            hint="raise the answer's tokens, take another judge of refusals, or --select all",
        )
    return counts


async def _label(
    session: "Session", job: "Job", seat: Seat, trace: Replayable, point: int, replay: int
) -> Counter[str]:
    """Close a trace at a point, have it answered; count the answer's label and its tokens."""
    recipe = job.recipe
    rollout = await session.extend(
        trace.prompt,
        Continuation(prefix=(trace.prefixes[point],)),
        rollout=replay,
        stream=f"deliberative {trace.id} {point}",
        sampling=_short(recipe.sampling),
        thinking=recipe.thinking,
    )
    found = Counter({TOKENS: rollout.answer_tokens or 0, READ: rollout.prompt_tokens or 0})
    text, label = text_to_judge(rollout, "answer", "exclude")
    if "reopened" in rollout.notes:
        label = "reopened"
    if not label:
        _, verdict = await session.judge(seat.label, trace.prompt, text, sees="answer")
        label = verdict.reason
        if label == "ok":
            known = {True: "refusal", False: "compliance", None: "unparsed"}
            label = known[verdict.refusal]
    found[label] += 1
    return found


def _short(sampling: Sampling) -> Sampling:
    tokens = min(sampling.answer_tokens, _ANSWER_TOKENS)
    return msgspec.structs.replace(sampling, answer_tokens=tokens)


def _rises(k: int, trace: Replayable, counts: Counts, settings: Settings) -> list[Rise]:
    """Rise of the right answers at each turn of a trace that has labels enough."""

    def tally(point: int) -> tuple[int, int]:
        labels = counts[k, point]
        return labels["compliance"], labels["compliance"] + labels["refusal"]

    pairs = [(tally(pre), tally(post)) for pre, post in trace.turns]
    enough = [pair for pair in pairs if 2 * min(n for _, n in pair) >= settings.replays]
    return [shrunk_rise(before, after, trace.side) for before, after in enough]


def _write(job: "Job", effects: Sequence[Effect]) -> None:
    """Write what each trace came to; raises JournalError."""
    job.folder.data.mkdir(parents=True, exist_ok=True)
    rows = {"traces": [msgspec.to_builtins(effect) for effect in effects]}
    write_whole(job.folder.data / "deliberation.json", canonical_json(rows))


def _noted(gathered: Gathered, remarks: list[str]) -> Gathered:
    notes = (*gathered.notes, *(f"select deliberative: {remark}" for remark in remarks))
    return msgspec.structs.replace(gathered, notes=notes)
