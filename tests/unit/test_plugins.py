"""Plugins: what they register is checked, looked up by name, and told whose it is."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tseval import hookimpl
from tseval.cards import Suite
from tseval.errors import PluginError, UnknownName
from tseval.formats import BUILTIN_FAMILIES, FormatFamily
from tseval.plugins import Origin, Table, load_registry
from tseval.requests import Capabilities
from tseval.roles import BackendFactory, JudgeCard, MetricSpec

KINDS = (
    *("benchmarks", "suites", "judges", "backends", "trainers", "interventions"),
    *("formats", "metrics", "leaderboards", "exporters"),
)


def judge(name: str = "mine") -> Any:
    return SimpleNamespace(
        card=JudgeCard(name=name, version="1", labels=("refusal",)), judge=lambda case, ask: None
    )


def benchmark(name: str = "mine") -> Any:
    return SimpleNamespace(card=SimpleNamespace(name=name, summary="x"), run=lambda session: [])


def metric(name: str = "mine") -> MetricSpec:
    return MetricSpec(
        name=name, title="x", on="benign", label="refusal", hit=bool, model_failure=False
    )


def plugin(kind: str, *values: Any, name: str = "a_plugin") -> ModuleType:
    """A plugin module that registers these objects of one kind."""
    module = ModuleType(name)

    def implementation(register: Callable[[Any], None]) -> None:
        for value in values:
            register(value)

    implementation.__name__ = f"register_{kind}"
    setattr(module, f"register_{kind}", hookimpl(implementation))
    return module


def distribution(
    folder: Path, module: str, source: str, *, name: str = "", version: str = "1.2"
) -> None:
    """A distribution with one module that is an entry point, as pip would have left it."""
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{(name or module).replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name or module}\nVersion: {version}\n"
    )
    (info / "entry_points.txt").write_text(f"[tseval]\n{module} = {module}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder on the path; what is imported from it is forgotten again."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


JUDGE_SOURCE = """
from types import SimpleNamespace
import tseval

@tseval.hookimpl
def register_judges(register):
    card = tseval.JudgeCard(name={name!r}, version="1", labels=("refusal",))
    register(SimpleNamespace(card=card, judge=None))
"""

# -- what is found, and whose it is


def test_an_entry_point_s_objects_are_registered_with_their_distribution(site: Path) -> None:
    distribution(site, "kind_judges", JUDGE_SOURCE.format(name="kind"), name="Kind-Judges")
    registry = load_registry()
    assert registry.judges["kind"].card.name == "kind"
    origin = Origin(plugin="kind_judges", distribution="Kind-Judges", version="1.2")
    assert registry.judges.origin("kind") == origin
    assert registry.origins() == [origin]
    assert registry.judges.origin("refusal-rules").distribution == "tseval"
    assert list(registry.judges)[-1] == "kind", "built-ins come first"


def test_built_ins_come_in_through_the_same_hooks() -> None:
    registry = load_registry()
    names = {origin.plugin for origin in registry.plugins()}
    assert {"tseval.formats", "tseval.metrics", "tseval.benchmarks", "tseval.judges"} <= names
    assert set(registry.formats) == {family.name for family in BUILTIN_FAMILIES}
    assert "orr" in registry.metrics
    bare = load_registry(without=["tseval.formats", "tseval.metrics", "tseval.benchmarks"])
    assert not bare.formats
    assert not bare.metrics
    assert not bare.suites
    assert not bare.benchmarks
    assert set(bare.judges) == set(registry.judges)


def test_formats_and_metrics_of_a_third_party_are_found() -> None:
    family = FormatFamily(name="mine", recognise=lambda view: None, make=lambda view: None)
    registry = load_registry(
        extra=[plugin("formats", family), plugin("metrics", metric(), name="another")]
    )
    assert registry.formats["mine"] is family
    assert registry.metrics["mine"] == metric()
    assert registry.metrics.origin("mine").plugin == "another"


def test_a_table_is_filled_when_it_is_first_read_and_only_once() -> None:
    asked: list[str] = []

    class Counting:
        @hookimpl
        def register_trainers(self, register):
            asked.append("trainers")

        @hookimpl
        def register_metrics(self, register):
            asked.append("metrics")
            register(metric())

    registry = load_registry(extra=[Counting()])
    assert asked == []
    assert "mine" in registry.metrics
    assert registry.metrics is registry.metrics
    assert asked == ["metrics"]
    assert "thinksafe" in registry.trainers
    assert asked == ["metrics", "trainers"]


def test_every_kind_has_a_table_and_nothing_else_does() -> None:
    registry = load_registry()
    for kind in KINDS:
        assert isinstance(getattr(registry, kind), Table)
    with pytest.raises(AttributeError, match="judgments"):
        registry.judgments  # noqa: B018


def test_a_hook_may_leave_its_argument_out() -> None:
    class Idle:
        @hookimpl
        def register_judges(self):
            pass

    assert "refusal-rules" in load_registry(extra=[Idle()]).judges


def test_life_cycle_hooks_reach_plugins() -> None:
    seen: list[tuple[str, int]] = []

    class Watching:
        @hookimpl
        def run_finished(self, run, scores):
            seen.append((run, len(scores)))

    load_registry(extra=[Watching()]).manager.hook.run_finished(run="r", scores=[1, 2])
    assert seen == [("r", 2)]


# -- clashes


def test_a_name_that_is_taken_is_an_error_that_names_both_plugins() -> None:
    registry = load_registry(extra=[plugin("judges", judge("refusal-rules"))])
    with pytest.raises(PluginError) as error:
        registry.judges  # noqa: B018
    assert str(error.value) == (
        "judge 'refusal-rules' of plugin 'a_plugin' is already registered"
        " by plugin 'tseval.judges.refusal_rules'\n"
        "hint: rename one of them, or run with --without a_plugin"
    )
    assert error.value.plugin == "a_plugin"


def test_two_third_parties_that_clash_are_both_named() -> None:
    registry = load_registry(
        extra=[plugin("metrics", metric(), name="first"), plugin("metrics", metric(), name="other")]
    )
    with pytest.raises(PluginError, match=r"of plugin 'other' is already .* 'first'"):
        registry.metrics  # noqa: B018


def test_two_distributions_with_one_plugin_name_are_both_named(site: Path) -> None:
    distribution(site, "guards", JUDGE_SOURCE.format(name="a"), name="guards-of-alice")
    info = site / "guards_of_bob-3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guards-of-bob\nVersion: 3\n")
    (info / "entry_points.txt").write_text("[tseval]\nguards = guards\n")
    with pytest.raises(PluginError) as error:
        load_registry()
    assert str(error.value) == (
        "two plugins are called 'guards': of guards-of-alice and of guards-of-bob\n"
        "hint: uninstall one of them"
    )


# -- broken plugins


@pytest.mark.parametrize(
    ("hook", "hint"),
    [
        ("register_judge", "did you mean 'register_judges'?"),
        ("register_bencmarks", "did you mean 'register_benchmarks'?"),
        ("run_finish", "did you mean 'run_finished'?"),
    ],
)
def test_a_misspelt_hook_is_an_error_that_suggests(hook: str, hint: str) -> None:
    module = ModuleType("typo")
    setattr(module, hook, hookimpl(lambda register: None))
    with pytest.raises(PluginError) as error:
        load_registry(extra=[module])
    assert error.value.message == f"plugin 'typo' implements the unknown hook {hook!r}"
    assert error.value.hint == hint


def test_a_hook_unlike_any_other_is_answered_with_the_list() -> None:
    module = ModuleType("typo")
    module.on_quit = hookimpl(lambda: None)  # type: ignore[attr-defined]
    with pytest.raises(PluginError) as error:
        load_registry(extra=[module])
    assert error.value.hint.startswith("hooks: find_benchmark, register_backends, register_")


def test_a_function_that_forgot_its_mark_is_an_error(site: Path) -> None:
    distribution(site, "forgetful", "def register_judges(register):\n    pass\n")
    with pytest.raises(PluginError) as error:
        load_registry()
    assert str(error.value) == (
        "plugin 'forgetful' defines 'register_judges' without marking it as a hook\n"
        "hint: put @tseval.hookimpl above it"
    )


def test_a_plugin_may_import_what_is_called_like_a_hook(site: Path) -> None:
    distribution(site, "importing", "from tseval import register_suites\n")
    assert [origin.plugin for origin in load_registry().origins()] == ["importing"]


def test_a_hook_with_a_wrong_argument_is_an_error_of_one_line() -> None:
    module = ModuleType("wrong")
    module.register_judges = hookimpl(lambda add: None)  # type: ignore[attr-defined]
    with pytest.raises(PluginError) as error:
        load_registry(extra=[module])
    assert error.value.message.startswith("plugin 'wrong' does not fit tseval's hooks: ")
    assert "'add'" in error.value.message
    assert "\n" not in error.value.message
    assert error.value.hint == "tseval/hookspecs.py has every hook with its arguments"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import not_installed_anywhere", "ModuleNotFoundError: No module named"),
        ("def (", "SyntaxError: "),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_plugin_that_cannot_be_imported_fails_the_command_unless_left_out(
    site: Path, source: str, why: str
) -> None:
    distribution(site, "broken_one", source)
    with pytest.raises(PluginError) as error:
        load_registry()
    assert error.value.message.startswith(f"plugin 'broken_one' cannot be imported: {why}")
    assert error.value.hint == "repair or uninstall it, or run with --without broken_one"
    assert error.value.plugin == "broken_one"
    assert load_registry(without=["broken_one"]).origins() == []


def test_a_plugin_that_fails_while_it_registers_is_named() -> None:
    class Failing:
        @hookimpl
        def register_judges(self, register):
            raise OSError("no weights here")

    registry = load_registry(extra=[Failing()])
    with pytest.raises(PluginError) as error:
        registry.judges  # noqa: B018
    assert error.value.message == (
        "plugin 'extra-0' failed in register_judges: OSError: no weights here"
    )


def test_leaving_out_a_plugin_that_is_not_there_is_an_error_that_suggests(site: Path) -> None:
    distribution(site, "kind_judges", JUDGE_SOURCE.format(name="kind"))
    assert "kind" not in load_registry(without=["kind_judges"]).judges
    with pytest.raises(UnknownName) as error:
        load_registry(without=["kind_judge"])
    assert error.value.message.startswith("unknown plugin 'kind_judge' (known: ")
    assert error.value.hint == "did you mean 'kind_judges'? see `tseval ls plugins`"


def test_a_checkout_that_is_not_installed_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tseval.plugins.CATALOGUES", ("tseval.nowhere",))
    with pytest.raises(PluginError) as error:
        load_registry()
    assert error.value.message == (
        "tseval.nowhere is not installed: running from a checkout that is not installed"
    )
    assert error.value.hint.startswith("pip install -e .")


# -- objects that don't play their role


class Whole:
    """Has every member of every role, and is registered as a class instead of an object."""

    card = JudgeCard(name="whole", version="1", labels=("refusal",), summary="x")
    name, summary, identity = "whole", "x", ()

    def run(self): ...
    def judge(self): ...
    def train(self): ...
    def complete(self): ...
    def export(self): ...


@pytest.mark.parametrize(
    ("kind", "value", "why"),
    [
        ("judges", "refusal-rules", "a judge needs a name without spaces and ',;@()', got None"),
        ("judges", Whole, "a judge is an object, got the class Whole"),
        ("judges", judge(""), "a judge needs a name without spaces and ',;@()', got ''"),
        ("judges", judge("a b"), "a judge needs a name without spaces and ',;@()', got 'a b'"),
        ("judges", judge("a@b"), "a judge needs a name without spaces and ',;@()', got 'a@b'"),
        ("judges", judge("a,b"), "a judge needs a name without spaces and ',;@()', got 'a,b'"),
        ("judges", SimpleNamespace(card=judge().card), "judge 'mine' lacks judge"),
        (
            "judges",
            SimpleNamespace(
                card=SimpleNamespace(name="mine", version="1", summary="", identity={}),
                judge=None,
            ),
            "judge 'mine' lacks card.labels, card.sees, card.licence, card.paper, card.model,"
            " card.asked, card.choices, card.alias_of",
        ),
        ("benchmarks", Whole, "a benchmark is an object, got the class Whole"),
        ("benchmarks", SimpleNamespace(card=benchmark().card), "benchmark 'mine' lacks run"),
        (
            "benchmarks",
            SimpleNamespace(name="mine", run=None),
            "benchmark 'mine' lacks card.summary",
        ),
        ("suites", {"name": "mine"}, "a suite is a Suite, got dict"),
        ("backends", judge(), "a backend is a BackendFactory, got SimpleNamespace"),
        (
            "backends",
            BackendFactory(
                name="my backend", summary="", capabilities=Capabilities(), create=lambda spec: None
            ),
            "a backend needs a name without spaces and ',;@()', got 'my backend'",
        ),
        (
            "trainers",
            SimpleNamespace(name="mine", gather=None, fit=None),
            "trainer 'mine' lacks card.summary, card.takes",
        ),
        (
            "interventions",
            SimpleNamespace(name="mine", identity={}),
            "intervention 'mine' lacks complete",
        ),
        ("formats", BUILTIN_FAMILIES, "a format is a FormatFamily, got tuple"),
        ("metrics", bool, "a metric is a MetricSpec or a MeasureSpec, got type"),
        ("metrics", metric(""), "a metric needs a name without spaces and ',;@()', got ''"),
        ("exporters", SimpleNamespace(name="mine"), "exporter 'mine' lacks export"),
    ],
)
def test_an_object_that_does_not_play_its_role_is_refused(kind: str, value: Any, why: str) -> None:
    registry = load_registry(extra=[plugin(kind, value)])
    with pytest.raises(PluginError) as error:
        getattr(registry, kind)
    assert error.value.message == f"plugin 'a_plugin' registered a broken {kind[:-1]}: {why}"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("judges", judge()),
        ("benchmarks", benchmark()),
        ("suites", Suite(name="mine", title="x", summary="x", benchmarks=("a",))),
        (
            "trainers",
            SimpleNamespace(
                card=SimpleNamespace(name="mine", summary="", takes=()), gather=None, fit=None
            ),
        ),
        ("interventions", SimpleNamespace(name="mine", complete=None, identity={})),
        ("exporters", SimpleNamespace(name="mine", export=None)),
        ("leaderboards", Path("mine")),
    ],
)
def test_an_object_need_not_inherit_to_play_its_role(kind: str, value: Any) -> None:
    table = getattr(load_registry(extra=[plugin(kind, value)]), kind)
    assert table["mine"] is value


# -- names


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("benchmarks", "xtest", "did you mean 'xstest'? see `tseval ls benchmarks`"),
        ("suites", "quik", "did you mean 'quick'? see `tseval ls suites`"),
        ("judges", "refusal_rules", "did you mean 'refusal-rules'? see `tseval ls judges`"),
        ("backends", "scriped", "did you mean 'scripted'? see `tseval ls backends`"),
        ("metrics", "or", "did you mean 'orr'? see `tseval ls metrics`"),
        ("formats", "tag", "did you mean 'tags'? see `tseval ls formats`"),
        ("judges", "zzz", "see `tseval ls judges`"),
    ],
)
def test_a_near_miss_of_a_name_is_suggested(kind: str, name: str, hint: str) -> None:
    table = getattr(load_registry(), kind)
    with pytest.raises(UnknownName) as error:
        table[name]
    assert error.value.message.startswith(f"unknown {kind[:-1]} {name!r} (known: ")
    assert error.value.hint == hint
    assert isinstance(error.value, LookupError)
    assert name not in table
    with pytest.raises(UnknownName):
        table.origin(name)


def test_a_long_list_of_names_is_cut_short() -> None:
    with pytest.raises(UnknownName) as error:
        load_registry().benchmarks["zzz"]
    assert error.value.message.endswith(", ...)")
    assert len(error.value.message) < 200
