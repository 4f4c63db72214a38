"""Stance judges in a run: named and placed like judges, asked once for each trace.

A panel of them is written ``stance-panel(judge,judge,judge; tie=neutral)``.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast, get_args

import msgspec
from msgspec import Struct

from .asking import asked_model
from .errors import ConfigError, RequestFailed, RowSkipped
from .judging import MEMBER, Seat, identify, parse_judge, seat_judges
from .memo import Memo, content_key
from .panels import split_outside
from .protocol import JudgeIdentity, fingerprint
from .requests import ModelSpec
from .roles import JudgeCard, StanceJudge
from .rollouts import Model
from .spec import DEFAULT_STANCE_JUDGES, RunSpec
from .stances import StanceCase, Stances, StanceTie, checked_stances, vote_stances

if TYPE_CHECKING:
    from .plugins import Registry

_PANEL = "stance-panel"
_HINT = f"for example '{_PANEL}(a,b,c)' or '{_PANEL}(a,b,c; tie=last)'; tie is neutral or last"


class StancePanel:
    """Several stance judges that vote on each chunk; see ``tseval.stances.vote_stances``.

    Args:
        text: The specification that it was written as.

    Attributes:
        card, validated: As of a stance judge; a panel is as unvalidated as any.
        members: Specifications of the judges.
        tie: What a chunk without a majority is.

    Raises:
        ConfigError: Fewer than two judges, one twice, or a rule that is not known.
    """

    validated = ""

    def __init__(self, text: str) -> None:
        inner = text.removeprefix(f"{_PANEL}(").removesuffix(")")
        members, *rules = (part.strip() for part in split_outside(inner, ";"))
        self.members = tuple(filter(None, map(str.strip, split_outside(members, ","))))
        if len(self.members) < 2 or len(set(self.members)) < len(self.members):
            raise ConfigError(f"{text} needs two or more different stance judges", hint=_HINT)
        rule = "".join(rules) or "tie=neutral"
        key, _, value = (part.strip() for part in rule.partition("="))
        if key != "tie" or value not in get_args(StanceTie) or len(rules) > 1:
            raise ConfigError(f"cannot read the rule of {text}", hint=_HINT)
        self.tie: StanceTie = msgspec.convert(value, StanceTie)
        self.card = JudgeCard(name=_PANEL, version="1", labels=(), sees="trace", asked=())


class StanceSeat(Struct, frozen=True, kw_only=True):
    """A stance judge with its place in a run.

    Attributes:
        label: What reports call it.
        judge: The judge, configured; or the panel.
        spec, role: As of a judge's seat (``tseval.judging.Seat``).
        members: Labels of a panel's members, in order.
        shown: Whether the user asked for it; members of panels are seated too.
    """

    label: str
    judge: StanceJudge | StancePanel
    spec: ModelSpec | None = None
    role: str = ""
    members: tuple[str, ...] = ()
    shown: bool = True


class _AsJudges:
    """The stance judges of a registry, where judges are looked for."""

    def __init__(self, registry: "Registry") -> None:
        self.judges = registry.stance_judges
        self.backends = registry.backends
        self.stance_judges: dict[str, StanceJudge] = {}


def stances_of(
    spec: RunSpec, registry: "Registry", judges: Mapping[str, Seat]
) -> dict[str, StanceSeat]:
    """Seat the stance judges that a run needs: none where nothing of it reads stances.

    Args:
        spec: The run.
        registry: Everything that is registered.
        judges: Seats of its other judges, whose models may be shared.

    Raises:
        ConfigError, UnknownName: As :func:`seat_stances`; for judges that the user named also
            where no benchmark needs them.
    """
    cards = (registry.benchmarks[name].card for name in spec.benchmarks)
    needed = any(getattr(card, "stances", False) for card in cards)
    if not needed and spec.stance_judges == DEFAULT_STANCE_JUDGES:
        return {}
    seats = seat_stances(spec.stance_judges, registry, spec.judge_options, judges)
    return seats if needed else {}


def seat_stances(
    texts: tuple[str, ...],
    registry: "Registry",
    options: Mapping[str, str] | None = None,
    judges: Mapping[str, Seat] | None = None,
) -> dict[str, StanceSeat]:
    """Seat stance judges: panels behind their members, each judge once.

    Args:
        texts: Specifications.
        registry: Everything that is registered.
        options: Backend options; those of one stance judge ('judge:key'), and those of all.
        judges: Seats of the run's other judges; a model that is the same is started once.

    Returns:
        Seats by label, in order.

    Raises:
        ConfigError: A specification or an option is wrong, or a judge that asks a model has none.
        UnknownName: No such stance judge or backend.
    """
    panels = {text: StancePanel(text) for text in texts if text.startswith(f"{_PANEL}(")}
    members = {member for panel in panels.values() for member in panel.members}
    each = (panels[text].members if text in panels else (text,) for text in texts)
    plain = tuple(dict.fromkeys(name for names in each for name in names))
    others = (judges or {}).values()
    seats: dict[str, StanceSeat] = {}
    labels: dict[str, str] = {}
    for text, seat in zip(plain, _plain_seats(plain, registry, options or {}), strict=True):
        judge = cast(StanceJudge, seat.judge)
        if judge.card.asked and seat.spec is None:
            raise ConfigError(
                f"stance judge {text!r} asks a model, and none is named",
                hint=f"{text}@backend/MODEL, for example {text}@openai/gpt-4o-mini",
            )
        labels[text] = seat.label
        shared = (other.role for other in others if seat.spec and other.spec == seat.spec)
        seats[seat.label] = StanceSeat(
            label=seat.label,
            judge=judge,
            spec=seat.spec,
            role=next(shared, seat.role),
            shown=text not in members or text in texts,
        )
    for text, panel in panels.items():
        named = tuple(labels[member] for member in panel.members)
        seats[text] = StanceSeat(label=text, judge=panel, members=named)
    return seats


def _plain_seats(
    texts: tuple[str, ...], registry: "Registry", options: Mapping[str, str]
) -> list[Seat]:
    """Seat stance judges that are no panels, in the order given."""
    stand_in: Any = _AsJudges(registry)
    own = {k: v for k, v in options.items() if k.partition(":")[0] in registry.stance_judges}
    seats = seat_judges(texts, stand_in, own)
    if any(seat.spec is not None for seat in seats.values()):
        # What is said of the models of all judges is said of these too.
        own |= {key: value for key, value in options.items() if ":" not in key}
        seats = seat_judges(texts, stand_in, own)
    found = []
    for text in texts:
        label = parse_judge(text).label
        seat = seats.get(label) or seats.get(text)
        if seat is None or seat in found:
            raise ConfigError(f"stance judge {text!r} is named twice", hint="name each once")
        found.append(seat)
    return found


class StanceCalls:
    """Has traces labelled; part of a session.

    Args:
        memo: The session's.
        models: Started models by role.
        seats: The run's stance judges by label, members of panels before the panel.
        seed: Run seed.

    Attributes:
        seats: As given.
    """

    def __init__(
        self, memo: Memo, models: dict[str, Model], seats: dict[str, StanceSeat], *, seed: int
    ) -> None:
        self.seats = seats
        self._memo = memo
        self._models = models
        self._seed = seed

    def identity_of(self, judge: str) -> JudgeIdentity:
        """Identity of a stance judge, its model's or its members' included."""
        seat = self.seats[judge]
        if not isinstance(seat.judge, StancePanel):
            return identify(cast(Seat, seat), self._models, [])
        named = {
            f"{MEMBER}{number} {member}": fingerprint(msgspec.to_builtins(self.identity_of(member)))
            for number, member in enumerate(seat.members)
        }
        return JudgeIdentity(
            name=_PANEL, version=seat.judge.card.version, identity=named, vote=seat.judge.tie
        )

    async def label(self, judge: str, case: StanceCase) -> Stances:
        """Have the chunks of a trace labelled.

        Args:
            judge: Label of one of the run's stance judges.
            case: The prompt and the chunks.

        Returns:
            The labels, or why there are none. A judge whose model fails gives reason 'error', which
            is not journalled as an answer: it is tried again on resume.
        """
        seat = self.seats[judge]
        identity = msgspec.to_builtins(self.identity_of(judge))
        key = content_key(["stance", identity, case.prompt, case.chunks])
        found = self._memo.find("stance", key, Stances)
        if found is not None:
            return checked_stances(found, len(case.chunks))
        if isinstance(seat.judge, StancePanel):
            votes = [await self.label(member, case) for member in seat.members]
            said = vote_stances(votes, seat.judge.tie)
        else:
            said = await self._asked(seat, seat.judge, case, key)
        if said.reason == "error" or key in self._memo.journal:
            return said
        self._memo.journal.append("stance", key, said)
        self._memo.counts["stance.made"] += 1
        return said

    async def _asked(
        self, seat: StanceSeat, judge: StanceJudge, case: StanceCase, key: str
    ) -> Stances:
        model = asked_model(
            self._memo,
            self._models[seat.role] if seat.role else None,
            judge.card,
            seed=self._seed,
            sample=0,
        )
        try:
            said = await judge.label(case, model)
        except (RequestFailed, RowSkipped) as error:
            self._memo.lost("stance", key, error)
            return Stances(reason="error", raw=error.message)
        return checked_stances(said, len(case.chunks))
