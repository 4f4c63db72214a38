"""Interventions: what wraps a model's generation, and how one is named and told its options."""

import re
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from .errors import CapabilityMissing, ConfigError, UnknownName
from .formats import ThinkingFormat
from .requests import Capabilities, Completion, CompletionRequest
from .roles import Backend
from .types import ThinkingMode


class Inner:
    """The model, as an intervention sees it.

    Args:
        backend: The backend that runs it.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def capabilities(self) -> Capabilities:
        """What the model's backend can do."""
        return self._backend.capabilities

    async def __call__(self, request: CompletionRequest) -> Completion:
        """Have the model generate; raises RequestFailed where it fails."""
        return await self._backend.complete(request)

    def encode(self, text: str) -> tuple[int, ...] | None:
        """Token ids of a text tokenised on its own; None where the backend cannot know."""
        return self._backend.text_ids(text) if self.capabilities.token_ids else None

    def count(self, text: str) -> int | None:
        """Length of a text in tokens; None where the backend cannot know."""
        return self._backend.text_tokens(text)

    def decode(self, ids: tuple[int, ...]) -> str:
        """Text of token ids; only called where :meth:`encode` gives ids."""
        return self._backend.decode(ids)


class Intervention(Protocol):
    """Wraps generation; what ``register_interventions`` takes.

    One object serves a whole run, and requests are concurrent: it keeps nothing between them. It
    is a function of the request and of what the model answers, so its draws take their seeds from
    the request's, a new one for each further call: equal seeds give equal draws.

    What it writes into a trace is part of the trace, counts towards ``limits.thinking``, and its
    ranges are told in ``Completion.injected``. It writes nothing into an answer. It leaves a
    request for an 'answer' alone, and at the start of more of a 'trace' it writes nothing, since
    that stands in the recorded trace already. Marks come from ``request.format``: no text is ever
    searched for tags to find where the trace begins. Errors of the model are raised as they come.

    It may offer more: :class:`Demanding`, :class:`Adjustable`.

    Attributes:
        name: Registered name.
        identity: Version, constants and a hash of each text that it writes: part of the subject's
            identity, since they change what is measured.
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    @property
    def identity(self) -> dict[str, str]:
        """See above."""
        ...

    async def complete(self, request: CompletionRequest, inner: Inner) -> Completion:
        """Make a completion with any number of calls to ``inner``."""
        ...


@runtime_checkable
class Demanding(Protocol):
    """An intervention that does not work with every model.

    Attributes:
        needs: What the backend must be able to do, as in ``Capabilities``.
        needs_trace: Whether it does nothing to a model that does not think.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        """See above."""
        ...

    @property
    def needs_trace(self) -> bool:
        """See above."""
        ...


@runtime_checkable
class Adjustable(Protocol):
    """An intervention whose constants may be set: ``--intervention 'NAME(option=value)'``."""

    @property
    def options(self) -> dict[str, str]:
        """Its options and their values."""
        ...

    def adjusted(self, options: dict[str, str]) -> Intervention:
        """Return it with other constants; raise ConfigError for an unknown one or a bad value."""
        ...


_FORM = re.compile(r"\s*([^\s,;@()]+)\s*(?:\((.*)\))?\s*", re.DOTALL)
_OPTION = re.compile(r"\s*(\w+)\s*=\s*(\"[^\"]*\"|'[^']*'|[^,\"']*?)\s*(?:,|$)", re.DOTALL)


def parse_intervention(text: str, known: Mapping[str, Any]) -> Intervention:
    """Find the intervention that a text names, with the options that it gives.

    Args:
        text: 'NAME' or 'NAME(option=value, option="a, b")'.
        known: Registered interventions by name.

    Raises:
        UnknownName: No such intervention, or no such option of it.
        ConfigError: The text has another form, or an option no such value.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise ConfigError(
            f"--intervention {text!r} is no name with options",
            hint="write NAME or 'NAME(option=value,option=value)'",
        )
    if form[1] not in known:
        raise UnknownName("intervention", form[1], known)
    found: Intervention = known[form[1]]
    if not (form[2] or "").strip():
        return found
    options, at = {}, 0
    while at < len(form[2]):
        option = _OPTION.match(form[2], at)
        if option is None or option[1] in options:
            raise ConfigError(
                f"cannot read the options of --intervention {text!r} from {form[2][at:]!r} on",
                hint="write option=value once each, and a value with commas in quotes",
            )
        value = option[2]
        options[option[1]] = value[1:-1] if value[:1] in ("'", '"') else value
        at = option.end()
    if not isinstance(found, Adjustable):
        raise ConfigError(f"intervention {found.name!r} takes no options")
    return found.adjusted(options)


def check_capable(intervention: Intervention, capabilities: Capabilities, backend: str) -> None:
    """Raise CapabilityMissing where an intervention needs what a backend cannot do.

    Args:
        intervention: The intervention.
        capabilities: Of the backend, or the most that its kind can do: before anything is loaded.
        backend: Its name.
    """
    if not isinstance(intervention, Demanding):
        return
    missing = [need for need in intervention.needs if not getattr(capabilities, need)]
    if missing:
        raise CapabilityMissing(
            f"intervention {intervention.name!r} needs {', '.join(missing)}, which backend"
            f" {backend!r} lacks",
            hint="run it on another backend, for example hf",
        )


def check_fits(
    intervention: Intervention, backend: Backend, fmt: ThinkingFormat, mode: ThinkingMode
) -> None:
    """Check that an intervention can work on a model.

    Args:
        intervention: The intervention.
        backend: The model's backend, started.
        fmt: Its thinking format.
        mode: The run's thinking mode.

    Raises:
        CapabilityMissing: The backend lacks what it needs.
        ConfigError: The model will not think, so nothing would happen.
    """
    if not isinstance(intervention, Demanding):
        return
    check_capable(intervention, backend.capabilities, backend.spec.backend)
    if intervention.needs_trace and (mode == "off" or (mode == "default" and not fmt.thinks)):
        why = "thinking is off" if mode == "off" else "the model has no thinking format"
        raise ConfigError(
            f"intervention {intervention.name!r} works on thinking traces, but {why}",
            hint="--thinking forced opens a trace for every model",
        )
