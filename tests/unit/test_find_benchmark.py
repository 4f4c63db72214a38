"""Benchmarks that are made by name: the hook, and the table that asks it."""

from types import SimpleNamespace
from typing import Any

import pytest

from tseval.errors import PluginError, UnknownName
from tseval.hookspecs import hookimpl
from tseval.plugins import load_registry


class Finder:
    """A plugin with a family of benchmarks."""

    def __init__(self, prefix: str, value: Any = None) -> None:
        self.__name__ = f"finder-{prefix}"
        self.prefix, self.value, self.asked = prefix, value, []

    @hookimpl
    def find_benchmark(self, name: str) -> Any:
        self.asked.append(name)
        if not name.startswith(self.prefix):
            return None
        if isinstance(self.value, Exception):
            raise self.value
        if self.value is not None:
            return self.value
        return SimpleNamespace(card=SimpleNamespace(name=name, summary="found"), run=lambda s: [])


def test_a_name_with_a_slash_is_found_by_a_plugin_and_not_listed() -> None:
    finder = Finder("mine/")
    table = load_registry(extra=[finder]).benchmarks
    found = table["mine/first"]
    assert found.card.name == "mine/first"
    assert table["mine/first"] is found
    assert finder.asked == ["mine/first"]
    assert "mine/first" not in list(table)
    assert table.origin("mine/first").plugin == "finder-mine/"


def test_names_without_a_slash_are_not_asked_for() -> None:
    finder = Finder("")
    with pytest.raises(UnknownName, match="unknown benchmark 'xstset'") as error:
        load_registry(extra=[finder]).benchmarks["xstset"]
    assert "did you mean 'xstest'" in error.value.hint
    assert finder.asked == []


def test_a_name_that_no_plugin_knows_is_unknown() -> None:
    with pytest.raises(UnknownName, match="unknown benchmark 'theirs/first'"):
        load_registry(extra=[Finder("mine/")]).benchmarks["theirs/first"]


def test_what_is_found_has_to_be_a_benchmark() -> None:
    table = load_registry(extra=[Finder("mine/", SimpleNamespace(name="x"))]).benchmarks
    with pytest.raises(PluginError, match="found a broken benchmark 'mine/a': benchmark 'x' lacks"):
        table["mine/a"]


def test_a_finder_that_breaks_is_named() -> None:
    table = load_registry(extra=[Finder("mine/", ValueError("oh"))]).benchmarks
    with pytest.raises(PluginError, match="'finder-mine/' failed in find_benchmark: ValueError"):
        table["mine/a"]


def test_every_task_of_lm_eval_is_a_benchmark() -> None:
    table = load_registry().benchmarks
    assert table["lm-eval/gsm8k"].card.name == "lm-eval/gsm8k"
    assert table.origin("lm-eval/gsm8k").plugin == "tseval.lm_eval_tasks"
    with pytest.raises(UnknownName, match="unknown lm-eval task 'gsm8kk'"):
        table["lm-eval/gsm8kk"]


def test_without_the_plugin_there_are_none() -> None:
    with pytest.raises(UnknownName, match="unknown benchmark 'lm-eval/gsm8k'"):
        load_registry(without=["tseval.lm_eval_tasks"]).benchmarks["lm-eval/gsm8k"]
