"""What the built-in interventions have in common: constants that are options and identity."""

from hashlib import sha256
from typing import Annotated, Any, ClassVar, Self

import msgspec
from msgspec import Meta, Struct

from tseval.errors import ConfigError, UnknownName
from tseval.requests import CompletionRequest

Count = Annotated[int, Meta(ge=1)]
# A text that is empty would be injected unseen.
Words = Annotated[str, Meta(min_length=1, pattern=r"\S")]
# Characters of a text that is shown among other defaults.
_LONGEST = 40


class Constants(Struct, frozen=True, kw_only=True):
    """The constants of an intervention: its fields, each of them an option.

    Attributes:
        name: Registered name.
        version: Changes whenever a completion could.
        summary: For ``tseval ls interventions``.
        needs, needs_trace: As in ``tseval.wrapping.Demanding``.
    """

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    summary: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("prefix", "token_ids")
    needs_trace: ClassVar[bool] = True

    @property
    def options(self) -> dict[str, str]:
        """The constants and their values."""
        return {name: str(getattr(self, name)) for name in self.__struct_fields__}

    @property
    def identity(self) -> dict[str, str]:
        """Version and constants, texts as hashes."""
        constants = {
            name: sha256(value.encode()).hexdigest()[:16] if isinstance(value, str) else str(value)
            for name, value in msgspec.structs.asdict(self).items()
        }
        return {"version": self.version, **constants}

    def adjusted(self, options: dict[str, str]) -> Self:
        """Return it with other constants.

        Raises:
            UnknownName: There is no such constant.
            ConfigError: It cannot have that value.
        """
        for name in options:
            if name not in self.__struct_fields__:
                hint = f"{self.name} takes {', '.join(self.__struct_fields__)}"
                raise UnknownName("option", name, self.__struct_fields__, hint=hint)
        values: dict[str, Any] = {**msgspec.structs.asdict(self), **options}
        try:
            return msgspec.convert(values, type(self), strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(
                f"intervention {self.name!r}: {error}",
                hint=f"defaults: {', '.join(map(_shown, self.options.items()))}",
            ) from None


def _shown(option: tuple[str, str]) -> str:
    """Write a default on one line; some are texts of several."""
    name, value = option
    line = " ".join(value.split())
    return f"{name}={line}" if len(line) <= _LONGEST else f"{name}={line[:_LONGEST]}..."


def leaves_alone(request: CompletionRequest) -> bool:
    """Whether a request is for no trace at all, so that none can be worked on."""
    return request.part == "answer" or not request.format.thinks or request.limits.thinking < 1
