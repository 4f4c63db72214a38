"""How a run's judges are named, seated, asked and identified.

A judge is named ``name(option=value,...)@where``. ``where`` is a model string, a backend, or
``backend/served-name:http://...``; without it the judge runs its default model. A panel is written
``panel(judge,judge; rule)`` or has a registered name; its members are judges like any other.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

import msgspec
from msgspec import Struct

from .asking import way_of
from .errors import ConfigError, TsevalError
from .panels import Label, Panel, is_panel, parse_panel, split_outside, split_panel
from .protocol import JudgeIdentity, fingerprint
from .requests import ModelSpec
from .roles import Judge, JudgeCard
from .rollouts import Model
from .spec import parse_model
from .types import TextJudged

if TYPE_CHECKING:
    from .plugins import Registry

# In a panel's identity, before the name of a member.
MEMBER = "member."
_SPEC = re.compile(r"(?P<name>[^(@]+)(?:\((?P<options>.*)\))?(?:@(?P<where>.+))?", re.DOTALL)
_ON_SERVER = re.compile(r"(?P<backend>[^:/]+)(?:/(?P<name>.*?))?:(?P<url>https?://.+)")


class JudgeSpec(Struct, frozen=True, kw_only=True):
    """A judge as it was asked for.

    Attributes:
        text: The specification, in full.
        name: Registered name.
        options: The judge's own options.
        sees: Which text it is shown, where that differs from the run's.
        where: Which model it runs on, or ''.
    """

    text: str
    name: str
    options: dict[str, str] = {}
    sees: TextJudged | None = None
    where: str = ""

    @property
    def label(self) -> str:
        """The specification without the model's place, for tables."""
        options = dict(sorted(self.options.items())) | ({"text": self.sees} if self.sees else {})
        inner = ",".join(f"{key}={value}" for key, value in options.items())
        return f"{self.name}({inner})" if inner else self.name


def parse_judge(text: str) -> JudgeSpec:
    """Read the specification of a judge that is no panel written out.

    Raises:
        ConfigError: It cannot be read.
    """
    if text.count("(") != text.count(")"):
        raise ConfigError(f"the judge {text!r} has a bracket that is not closed")
    found = _SPEC.fullmatch(text.strip())
    if found is None:
        raise ConfigError(
            f"cannot read the judge {text!r}",
            hint="a judge is name, name@model or name(option=value)@model",
        )
    options: dict[str, str] = {}
    for part in filter(None, map(str.strip, split_outside(found["options"] or "", ","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key or key in options:
            raise ConfigError(f"judge {text!r}: {part!r} is no new option=value")
        options[key] = value
    sees = options.pop("text", None)
    if sees is not None and sees not in get_args(TextJudged):
        raise ConfigError(f"judge {text!r}: text is {sees!r}", hint="answer, trace or both")
    return JudgeSpec(
        text=text.strip(),
        name=found["name"].strip(),
        options=options,
        sees=msgspec.convert(sees, TextJudged | None),
        where=(found["where"] or "").strip(),
    )


@contextlib.contextmanager
def said_of(judge: str) -> Iterator[None]:
    """Let what goes wrong with a judge's model speak of the judge and of its flags."""
    try:
        yield
    except TsevalError as error:
        # Models are described, built and started by the same code for judges and for subjects.
        words = (("-M ", "-J "), ("--base-url", "its address"))
        for one, other in words:
            error.message = error.message.replace(one, other)
            error.hint = error.hint.replace(one, other)
        if judge not in error.message:
            error.message = f"judge {judge!r}: {error.message}"
        raise


class Seat(Struct, frozen=True, kw_only=True):
    """A judge with its place in a run.

    Attributes:
        label: What scores, rows and tables call it.
        judge: The judge, configured; or the panel.
        spec: Where its model is, for a judge that runs one.
        role: Role of that model in the run, or ''.
        sees: Which text it is shown; None is the run's.
        members: Labels of a panel's members, in order.
        shown: Whether the user asked for it; members of panels are seated too.
    """

    label: str
    judge: Judge | Panel
    spec: ModelSpec | None = None
    role: str = ""
    sees: TextJudged | None = None
    members: tuple[str, ...] = ()
    shown: bool = True


def seat_judges(
    texts: tuple[str, ...], registry: "Registry", options: dict[str, str] | None = None
) -> dict[str, Seat]:
    """Seat the judges of a run: panels behind their members, each judge once.

    Args:
        texts: Specifications.
        registry: Everything that is registered.
        options: Backend options for the judges' models; 'judge:key' is for one judge only.

    Returns:
        Seats by label.

    Raises:
        ConfigError: A specification or an option is wrong.
        UnknownName: No such judge or backend.
    """
    clashing: set[str] = set()
    while True:
        table = _Table(registry, options or {}, clashing)
        for text in texts:
            table.add(text, shown=True)
        if table.clashing == clashing:
            table.check_options()
            _check_members(table.seats)
            return table.seats
        # The same judge on two models: both are called by their whole specification.
        clashing = table.clashing


class _Table:
    """The seats so far."""

    def __init__(self, registry: "Registry", options: dict[str, str], clashing: set[str]) -> None:
        self.seats: dict[str, Seat] = {}
        self.clashing = set(clashing)
        self._registry = registry
        self._options = options
        self._used: set[str] = set()
        self._asked: dict[tuple[str, bytes], str] = {}

    def add(self, text: str, *, shown: bool) -> str:
        """Seat a judge, and the members of a panel before it; returns its label."""
        if is_panel(text):
            names, _ = split_panel(text)
            members = tuple(self.add(name, shown=False) for name in names)
            labels: dict[str, tuple[Label, ...]] = {
                name: self.seats[member].judge.card.labels
                for name, member in zip(names, members, strict=True)
            }
            seat = Seat(label=text, judge=parse_panel(text, labels), members=members, shown=shown)
            return self._put(text, seat)
        spec = parse_judge(text)
        plugin = self._registry.judges[spec.name]
        if isinstance(plugin, Panel):
            return self._put(text, self._panel(spec, plugin, shown))
        judge = _configured(plugin, spec)
        with said_of(spec.label):
            model = self._model(spec, judge.card)
        label = spec.text if spec.label in self.clashing else spec.label
        # Under a clash too, a judge that names its default model is the judge that names none.
        label = self._asked.setdefault((spec.label, msgspec.json.encode(model)), label)
        shared = (seat.role for seat in self.seats.values() if model and seat.spec == model)
        role = next(shared, f"judge {label}") if model else ""
        sees = spec.sees or (None if judge.card.sees == "answer" else judge.card.sees)
        seat = Seat(label=label, judge=judge, spec=model, role=role, sees=sees, shown=shown)
        return self._put(label, seat)

    def _panel(self, spec: JudgeSpec, panel: Panel, shown: bool) -> Seat:
        if spec.options:
            raise ConfigError(f"panel {spec.name!r} takes no options but text=answer|trace|both")
        members = []
        for member in panel.members:
            one = parse_judge(member)
            sees, place = spec.sees or one.sees, one.where or spec.where
            one = msgspec.structs.replace(one, sees=sees, where=place)
            where = f"@{one.where}" if one.where else ""
            members.append(self.add(f"{one.label}{where}", shown=False))
        return Seat(
            label=spec.label, judge=panel, sees=spec.sees, members=tuple(members), shown=shown
        )

    def _put(self, text: str, seat: Seat) -> str:
        label = text if seat.label in self.clashing else seat.label
        taken = self.seats.get(label)
        if taken is None:
            self.seats[label] = msgspec.structs.replace(seat, label=label)
            return label
        if (taken.spec, taken.members) != (seat.spec, seat.members):
            self.clashing.add(label)
        shown = taken.shown or seat.shown
        self.seats[label] = msgspec.structs.replace(taken, shown=shown)
        return label

    def _model(self, spec: JudgeSpec, card: JudgeCard) -> ModelSpec | None:
        if not card.asked and spec.where:
            raise ConfigError(
                f"judge {spec.name!r} runs no model, but is placed on {spec.where!r}",
                hint=f"leave out @{spec.where}",
            )
        if not card.model and not spec.where:
            return None
        backends = {name: each.needs_model for name, each in self._registry.backends.items()}
        default = parse_model(card.model, backends) if card.model else None
        model = _place(spec, default, backends)
        options = dict(model.options)
        # What is said of one judge stands above what is said of all.
        for key, value in sorted(self._options.items(), key=lambda item: ":" in item[0]):
            whose, _, option = key.rpartition(":")
            if whose in ("", spec.name):
                options[option] = value
                self._used.add(key)
        # Refuses credentials, as for every model: the manifest would hold them.
        parse_model(None, backends, base_url=model.base_url, options=options)
        return msgspec.structs.replace(model, options=options)

    def check_options(self) -> None:
        """Raise ConfigError for an option that no judge took."""
        for key in sorted(set(self._options) - self._used):
            if key.partition(":")[0] in self._registry.stance_judges:
                continue  # looked at where those are seated
            raise ConfigError(
                f"no judge of this run takes -J {key}",
                hint="-J key=value is for every judge with a model, -J judge:key=value for one",
            )


def _place(spec: JudgeSpec, default: ModelSpec | None, backends: dict[str, bool]) -> ModelSpec:
    """Say which model a judge runs on."""
    if not spec.where:
        assert default is not None
        return default
    server = _ON_SERVER.fullmatch(spec.where)
    backend, name, url = spec.where, "", ""
    if server is not None:
        backend, name, url = server["backend"], server["name"] or "", server["url"]
    if backend in backends and not name:
        known = default or ModelSpec(backend=backend)
        if not known.name and backends[backend]:
            raise ConfigError(
                f"judge {spec.text!r} names no model, and has none of its own",
                hint=f"{spec.name}@{backend}/MODEL",
            )
        # A hub commit is no part of the name that a server gives a model.
        revision = "" if url else known.revision
        return msgspec.structs.replace(known, backend=backend, revision=revision, base_url=url)
    text = f"{backend}/{name}" if server is not None else spec.where
    return parse_model(text, backends, base_url=url)


def _check_members(seats: dict[str, Seat]) -> None:
    """Raise ConfigError for a member with two votes, with none, or with a text of its own."""
    for panel, seat in seats.items():
        if not isinstance(seat.judge, Panel):
            continue
        label = seat.judge.rule.label
        for each in seat.members:
            if seat.members.count(each) > 1:
                raise ConfigError(f"{panel}: {each!r} is a member twice, and would have two votes")
            if label not in seats[each].judge.card.labels:
                raise ConfigError(f"{panel} votes about {label!r}, of which {each!r} says nothing")
            if seats[each].sees != seat.sees:
                raise ConfigError(
                    f"{panel}: {each!r} has a text of its own, but members of a panel judge one",
                    hint="--judged-text is for every judge of the run",
                )


def _configured(plugin: Judge, spec: JudgeSpec) -> Judge:
    if not spec.options:
        return plugin
    configure = getattr(plugin, "configured", None)
    if configure is None:
        raise ConfigError(f"judge {spec.name!r} takes no options but text=answer|trace|both")
    judge: Judge = configure(spec.options)
    return judge


def identify(seat: Seat, models: dict[str, Model], members: list[JudgeIdentity]) -> JudgeIdentity:
    """Return everything that a verdict depends on.

    Args:
        seat: The judge.
        models: Started models by role.
        members: Identities of a panel's members.
    """
    card, judge = seat.judge.card, seat.judge
    identity = dict(card.identity)
    if isinstance(judge, Panel):
        named = [
            # Where its model runs is no part of a judge's identity; which model it is, is.
            (
                "panel" if is_panel(label) else parse_judge(label).label,
                fingerprint(msgspec.to_builtins(one)),
            )
            for label, one in zip(seat.members, members, strict=True)
        ]
        # In an order of their own: that of the members has no effect on a vote.
        for plain, hashed in sorted(named):
            key = f"{MEMBER}{plain}"
            while key in identity:
                key = f"{key}+" if key != f"{MEMBER}{plain}" else f"{key} +"
            identity[key] = hashed
        name = "panel" if is_panel(card.name) else card.name
        return JudgeIdentity(
            name=name, version=card.version, identity=identity, vote=judge.rule.describe()
        )
    if seat.role:
        model = models[seat.role]
        known = model.subject.identity
        # Where a server stands says nothing about what it serves; its word for the model, and a
        # canary's answer, are all there is to know, and marked as unverified.
        identity |= {f"model.{key}": known[key] for key in known if key != "server"}
        if not model.subject.verified:
            identity["model.verified"] = "no"
        identity["asked"] = way_of(card, model.backend)
        if card.choices:
            capable = model.backend.capabilities.choices
            identity["read"] = "probabilities" if capable else "text"
    return JudgeIdentity(name=card.alias_of or card.name, version=card.version, identity=identity)
