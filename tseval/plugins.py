"""Find plugins, validate what they register, and look it up by name.

Built-ins come in through the same hooks as third parties. Discovery imports nothing heavy.
"""

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from types import ModuleType
from typing import Any, Generic, TypeVar

import pluggy
from msgspec import Struct

from . import hookspecs
from .errors import PluginError, TsevalError, UnknownName
from .kinds import KINDS

T = TypeVar("T")

# Catalogues are named as strings: the engine never imports them statically.
CATALOGUES = ("tseval.benchmarks", "tseval.judges", "tseval.leaderboards")
ENGINE_PLUGINS = (
    "tseval.exports",
    "tseval.formats",
    "tseval.interventions",
    "tseval.lm_eval_tasks",
    "tseval.metrics",
    "tseval.models.demo",
    "tseval.models.hf",
    "tseval.models.openai",
    "tseval.models.vllm",
    "tseval.report.figures",
    "tseval.testing",
    "tseval.train",
)
ENTRY_POINT_GROUP = "tseval"


class Origin(Struct, frozen=True, kw_only=True):
    """Where a registered object came from; the run's manifest stores it."""

    plugin: str
    distribution: str = "tseval"
    version: str = ""


class Registered(Struct, Generic[T], frozen=True, kw_only=True):
    """A registered object and its origin."""

    name: str
    value: T
    origin: Origin


class Table(Mapping[str, T], Generic[T]):
    """Registered objects of one kind by name, in order of registration.

    Args:
        kind: The kind in the singular, for messages.
        find: Finds objects that are not registered but made by name, such as 'lm-eval/gsm8k';
            asked for names with a '/' only. They can be looked up, and are not listed.
    """

    def __init__(
        self, kind: str, find: "Callable[[str], Registered[T] | None] | None" = None
    ) -> None:
        self.kind = kind
        self._find = find
        self._rows: dict[str, Registered[T]] = {}
        self._found: dict[str, Registered[T]] = {}

    def add(self, name: str, value: T, origin: Origin) -> None:
        """Add one object; raise PluginError naming both plugins if the name is taken."""
        taken = self._rows.get(name)
        if taken is not None:
            raise PluginError(
                f"{self.kind} {name!r} of plugin {origin.plugin!r} is already registered"
                f" by plugin {taken.origin.plugin!r}",
                plugin=origin.plugin,
                hint=f"rename one of them, or run with --without {origin.plugin}",
            )
        self._rows[name] = Registered(name=name, value=value, origin=origin)

    def __getitem__(self, name: str) -> T:
        return self._row(name).value

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Any:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def origin(self, name: str) -> Origin:
        """Return where an object came from; raise UnknownName."""
        return self._row(name).origin

    def _row(self, name: str) -> Registered[T]:
        row = self._rows.get(name) or self._found.get(name)
        if row is None and self._find is not None and "/" in name:
            row = self._find(name)
            if row is not None:
                self._found[name] = row
        if row is None:
            raise UnknownName(self.kind, name, self._rows)
        return row


class Registry:
    """Everything that is registered, one table a kind, and the plugin manager behind it.

    Attributes:
        benchmarks, suites, judges, stance_judges, backends, trainers, interventions, formats,
        metrics, leaderboards, exporters: Tables by name. Each is filled when it is first read, so
            that ``--help`` and a run that trains nothing load no trainer.
        manager: The pluggy manager; ``manager.hook`` calls the life-cycle hooks.
    """

    def __init__(self, manager: pluggy.PluginManager, origins: dict[str, Origin]) -> None:
        self.manager = manager
        self._origins = origins
        self._tables: dict[str, Table[Any]] = {}

    def __getattr__(self, kind: str) -> Table[Any]:
        if kind not in KINDS:
            raise AttributeError(kind)
        if kind not in self._tables:
            self._tables[kind] = self._collect(kind)
        return self._tables[kind]

    def plugins(self) -> list[Origin]:
        """Return the origin of every plugin, in the order in which they were loaded."""
        return list(self._origins.values())

    def origins(self) -> list[Origin]:
        """Return the origin of every plugin that does not ship with tseval."""
        return [origin for origin in self.plugins() if origin.distribution != "tseval"]

    def _collect(self, kind: str) -> Table[Any]:
        singular, validate = KINDS[kind]
        table: Table[Any] = Table(singular, self._find if kind == "benchmarks" else None)
        hook = getattr(self.manager.hook, f"register_{kind}")
        # Later registrations come first in pluggy; reversed, built-ins precede third parties.
        for implementation in hook.get_hookimpls():
            origin = self._origins[implementation.plugin_name]

            def register(value: Any, origin: Origin = origin) -> None:
                try:
                    name = validate(value)
                except TypeError as error:
                    raise PluginError(
                        f"plugin {origin.plugin!r} registered a broken {singular}: {error}",
                        plugin=origin.plugin,
                    ) from None
                table.add(name, value, origin)

            # As pluggy would: only the arguments that the implementation asks for.
            arguments = {"register": register} if implementation.argnames else {}
            try:
                implementation.function(**arguments)
            except TsevalError:
                raise
            except Exception as error:
                raise _broken(origin.plugin, error, f"failed in register_{kind}") from error
        return table

    def _find(self, name: str) -> Registered[Any] | None:
        """Ask the plugins for a benchmark that is made by name."""
        _, validate = KINDS["benchmarks"]
        # As pluggy's firstresult, but knowing whose the object is.
        for implementation in reversed(self.manager.hook.find_benchmark.get_hookimpls()):
            origin = self._origins[implementation.plugin_name]
            try:
                value = implementation.function(name)
                if value is None:
                    continue
                validate(value)
            except TsevalError:
                raise
            except TypeError as error:
                raise PluginError(
                    f"plugin {origin.plugin!r} found a broken benchmark {name!r}: {error}",
                    plugin=origin.plugin,
                ) from error
            except Exception as error:
                raise _broken(origin.plugin, error, "failed in find_benchmark") from error
            return Registered(name=name, value=value, origin=origin)
        return None


def load_registry(
    without: Iterable[str] = (), extra: Iterable[ModuleType | object] = ()
) -> Registry:
    """Load every plugin: built-ins, catalogues, then the entry points of other packages.

    Args:
        without: Names of plugins to leave out (``--without``).
        extra: Further plugin objects, for tests and notebooks.

    Raises:
        PluginError: A plugin cannot be imported, has a name that is taken, or a hook that does
            not exist.
        UnknownName: ``without`` names no plugin.
    """
    manager = pluggy.PluginManager("tseval")
    manager.add_hookspecs(hookspecs)
    origins: dict[str, Origin] = {}
    skipped = set(without)
    modules = [*ENGINE_PLUGINS, *_catalogue_modules(skipped)]
    points = _entry_points()
    for name in sorted(skipped - {*modules, *(point.name for point, _ in points)}):
        raise UnknownName("plugin", name, [*modules, *(point.name for point, _ in points)])
    for name in modules:
        if name not in skipped:
            _add(manager, origins, _import(name, name), Origin(plugin=name))
    for point, distribution in points:
        if point.name not in skipped:
            origin = Origin(
                plugin=point.name,
                distribution=distribution.metadata["Name"],
                version=distribution.version,
            )
            _add(manager, origins, _load(point), origin)
    for number, plugin in enumerate(extra):
        name = getattr(plugin, "__name__", f"extra-{number}")
        _add(manager, origins, plugin, Origin(plugin=name, distribution="(in process)"))
    return Registry(manager, origins)


def _entry_points() -> list[tuple[Any, importlib.metadata.Distribution]]:
    # entry_points() leaves out a distribution that is visible twice on the path.
    points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    found = [(point, point.dist) for point in points if point.dist is not None]
    return sorted(found, key=lambda pair: (pair[1].metadata["Name"], pair[0].name))


def _catalogue_modules(skipped: set[str]) -> list[str]:
    """Name the catalogue packages, their modules and the modules one level down."""
    names: list[str] = []
    for catalogue in CATALOGUES:
        package = _import(catalogue, catalogue)
        names.append(catalogue)
        if catalogue not in skipped:
            names.extend(_modules_below(package, 2, skipped))
    return names


def _modules_below(package: ModuleType, levels: int, skipped: set[str]) -> list[str]:
    names: list[str] = []
    found = sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name)
    for module in found:
        if module.name.startswith("_"):
            continue
        name = f"{package.__name__}.{module.name}"
        names.append(name)
        if module.ispkg and levels > 1 and name not in skipped:
            names.extend(_modules_below(_import(name, name), levels - 1, skipped))
    return names


def _import(module: str, plugin: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module and module in CATALOGUES:
            raise PluginError(
                f"{module} is not installed: running from a checkout that is not installed",
                plugin=plugin,
                hint="pip install -e . (or run outside the checkout)",
            ) from None
        raise _broken(plugin, error) from error
    except Exception as error:
        raise _broken(plugin, error) from error


def _load(point: Any) -> Any:
    try:
        return point.load()
    except Exception as error:
        raise _broken(point.name, error) from error


def _broken(plugin: str, error: Exception, what: str = "cannot be imported") -> PluginError:
    return PluginError(
        f"plugin {plugin!r} {what}: {type(error).__name__}: {error}",
        plugin=plugin,
        hint=f"repair or uninstall it, or run with --without {plugin}",
    )


def _add(
    manager: pluggy.PluginManager, origins: dict[str, Origin], plugin: Any, origin: Origin
) -> None:
    name = origin.plugin
    taken = origins.get(name)
    if taken is not None:
        raise PluginError(
            f"two plugins are called {name!r}: of {taken.distribution} and of"
            f" {origin.distribution}",
            plugin=name,
            hint="uninstall one of them",
        )
    _check_hooks(plugin, name)
    try:
        manager.register(plugin, name=name)
    except (pluggy.PluginValidationError, ValueError) as error:
        raise PluginError(
            f"plugin {name!r} does not fit tseval's hooks: {' '.join(str(error).split())}",
            plugin=name,
            hint="tseval/hookspecs.py has every hook with its arguments",
        ) from error
    origins[name] = origin


def _check_hooks(plugin: Any, name: str) -> None:
    """Refuse what pluggy would pass over in silence: unknown hooks, and unmarked functions."""
    known = [each for each in dir(hookspecs) if hasattr(getattr(hookspecs, each), "tseval_spec")]
    for each in dir(plugin):
        member = getattr(plugin, each, None)
        marked = getattr(member, "tseval_impl", None)
        if marked is not None and (marked.get("specname") or each) not in known:
            near = get_close_matches(each, known, n=1, cutoff=0.6)
            raise PluginError(
                f"plugin {name!r} implements the unknown hook {each!r}",
                plugin=name,
                hint=f"did you mean {near[0]!r}?" if near else f"hooks: {', '.join(known)}",
            )
        own = getattr(member, "__module__", "") == getattr(plugin, "__name__", None)
        if marked is None and each in known and own:
            raise PluginError(
                f"plugin {name!r} defines {each!r} without marking it as a hook",
                plugin=name,
                hint="put @tseval.hookimpl above it",
            )
