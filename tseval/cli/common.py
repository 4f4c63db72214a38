"""What commands share: options with their variables, the registry, errors and exit codes."""

import contextlib
import errno
import inspect
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from typer.core import TyperCommand

from tseval.cli import EXIT_INTERRUPTED
from tseval.errors import ConfigError, TsevalError
from tseval.report.text import neutral

if TYPE_CHECKING:
    from tseval.plugins import Registry

# A disk, or somebody's share of it.
_FULL = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., None])


def option(*names: str, help: str, default: Any = None, **more: Any) -> Any:
    """Make an option; every ``--flag`` can be given as ``TSEVAL_FLAG`` too."""
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = "TSEVAL_" + long.removeprefix("--").upper().replace("-", "_")
    return typer.Option(
        default,
        *names,
        help=help,
        envvar=variable,
        show_envvar=False,
        **more,
    )


class Options:
    """A group of options that stand under one heading; a subclass has one an attribute.

    It is a declaration only: nothing makes an instance of it.
    """

    def __init_subclass__(cls, *, heading: str | None = None) -> None:
        """Put the options under their heading; without one it is 'Options'."""
        for name in inspect.get_annotations(cls):
            vars(cls)[name].rich_help_panel = heading


def with_options(*groups: type[Options]) -> Callable[[F], F]:
    """Give a command the options of groups, in their order, behind parameters of its own.

    typer reads the options of a command from its signature, and so this writes them there; the
    command takes them as ``**_`` and reads them by `given_values`.
    """

    def declare(command: F) -> F:
        own = inspect.signature(command).parameters.values()
        parameters = [each for each in own if each.kind is not inspect.Parameter.VAR_KEYWORD]
        parameters += [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=vars(group)[name], annotation=kind
            )
            for group in groups
            for name, kind in inspect.get_annotations(group).items()
        ]
        signed: Any = command
        signed.__signature__ = inspect.Signature(parameters, return_annotation=None)
        signed.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return declare


class Sections(TyperCommand):
    """A command whose help lists its options under the headings of their groups.

    What rich would do as well, at the cost of half of the time that ``--help`` takes.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one section a heading, in order of appearance."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                heading = getattr(parameter, "rich_help_panel", None) or "Options"
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def words(values: list[str] | None) -> list[str]:
    """Split repeated, comma-separated values; keep order, drop repetitions.

    Commas inside parentheses stay: 'panel(a,b)' is one value.
    """
    found: list[str] = []
    for value in values or []:
        depth, start = 0, 0
        for place, character in enumerate(f"{value},"):
            depth += (character == "(") - (character == ")")
            if character == "," and depth == 0:
                found.append(f"{value},"[start:place].strip())
                start = place + 1
        # Behind a bracket that nobody closed: whoever reads the word says so.
        found.append(value[start:].strip())
    return list(dict.fromkeys(word for word in found if word))


def given_values(context: Any) -> dict[str, Any]:
    """Return the parameters of a command by name, lists from variables as they were written.

    typer would split a variable's value at blanks, and with it every path that holds one; lists
    in variables are separated by commas, as they are on the command line.
    """
    given = dict(context.params)
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name)
        if parameter.multiple and source is not None and source.name == "ENVIRONMENT":
            given[parameter.name] = [os.environ[parameter.envvar]]
    return given


def read_config(path: Path, context: Any, given: dict[str, Any]) -> None:
    """Put a configuration file's values below flags and variables, above defaults.

    Args:
        path: YAML; its keys are the long flags without dashes in front.
        context: The click context of the command.
        given: Parameters by name; updated in place.

    Raises:
        ConfigError: The file is missing or broken, or has a key that is no flag.
    """
    flags = {
        name.removeprefix("--"): parameter
        for parameter in context.command.params
        for name in parameter.opts
        if name.startswith("--") and name != "--config"
    }
    for key, value in _read_yaml(path).items():
        parameter = flags.get(key)
        if parameter is None:
            raise _unknown_key(path, str(key), flags)
        source = context.get_parameter_source(parameter.name)
        set_above = source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")
        if set_above or value is None:
            continue
        try:
            given[parameter.name] = parameter.process_value(context, _words_for(parameter, value))
        except typer.BadParameter as error:
            raise ConfigError(
                f"{path}, key {key!r}: {value!r} does not fit: {error.message}",
                hint="a key takes what its flag takes: see tseval run --help",
            ) from error


def _unknown_key(path: Path, key: str, flags: dict[str, Any]) -> ConfigError:
    near = get_close_matches(key, flags, n=1, cutoff=0.6)
    suggestion = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError(
        f"{path} has the unknown key {key!r}",
        hint=f"{suggestion}keys are the long flags: see tseval run --help",
    )


def _words_for(parameter: Any, value: Any) -> Any:
    """Say what a flag would have been given for a value of a YAML file."""
    if parameter.multiple:
        if isinstance(value, dict):
            return [f"{name}={_word(each, no='false', yes='true')}" for name, each in value.items()]
        return [_word(each) for each in (value if isinstance(value, list) else [value])]
    if isinstance(value, bool) and parameter.is_flag:
        return value
    return _word(value)


def _word(value: Any, no: str = "off", yes: str = "on") -> str:
    from tseval.protocol import canonical_json

    if isinstance(value, bool):
        # YAML takes a bare off, as in 'thinking: off', for False.
        return yes if value else no
    return canonical_json(value).decode() if isinstance(value, dict | list) else str(value)


def _read_yaml(path: Path) -> dict[str, Any]:
    import msgspec

    try:
        found = msgspec.yaml.decode(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"cannot read --config {path}: {error.strerror}", hint="pass an existing YAML file"
        ) from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no mapping of flags to values")
    return found


def registry(without: list[str] | None = None) -> "Registry":
    """Load the plugins."""
    from tseval.plugins import load_registry

    return load_registry(words(without))


@contextlib.contextmanager
def errors(*, debug: bool = False, resume: Callable[[], str] | None = None) -> Iterator[None]:
    """Turn errors into one to three lines on stderr and the right exit code.

    Args:
        debug: Show the traceback instead.
        resume: Gives the command that resumes, for an interrupt; '' if there is nothing to resume.
    """
    try:
        yield
        # What cannot be written fails here, not as the interpreter ends.
        sys.stdout.flush()
    except KeyboardInterrupt:
        command = resume() if resume is not None else ""
        sys.stderr.write("\ninterrupted")
        sys.stderr.write(f"; nothing is lost. To go on:\n  {command}\n" if command else "\n")
        raise SystemExit(EXIT_INTERRUPTED) from None
    except TsevalError as error:
        if debug:
            raise
        # A message may quote a server, a dataset or a model.
        for number, line in enumerate(f"{error}".splitlines()):
            sys.stderr.write(f"{'' if number else 'error: '}{neutral(line)}\n")
        command = resume() if resume is not None else ""
        if command and error.exit_code == 1:
            sys.stderr.write(f"resume: {command}\n")
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        # The reader of our output is gone (`| head`); not an error of ours.
        _drop_output()
        raise SystemExit(0) from None
    except OSError as error:
        if debug or error.errno not in _FULL:
            raise
        _drop_output()
        sys.stderr.write(f"error: cannot write the output: {os.strerror(error.errno)}\n")
        sys.stderr.write("hint: free space, then run the same command again\n")
        raise SystemExit(1) from None


def _drop_output() -> None:
    """Send what is still to be written nowhere: the interpreter would fail on it as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def until_terminated(work: Coroutine[Any, Any, T]) -> T:
    """Let SIGTERM (a container's end, a cluster's time limit) end a run as cleanly as Ctrl-C."""
    import asyncio
    import signal

    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Do a command's work; an end by SIGTERM is an interrupt, as Ctrl-C is.

    Raises:
        KeyboardInterrupt: Somebody ended it.
    """
    import asyncio

    try:
        return asyncio.run(until_terminated(work))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
