"""Boards as the ranking would hand them over, small and made up."""

from typing import Any

from tseval.leaderboard.records import Board, Cell, Column, Entry, Row, Standing, Table
from tseval.types import Estimate, Score

PRINT = "0123456789ab"
COLUMNS = (
    Column(key="asr", title="ASR", mean_of=("hb", "sr"), note="mean of two benchmarks"),
    Column(key="hb", title="HarmBench", benchmark="harmbench", metric="asr_harmful", judge="guard"),
    Column(key="sr", title="StrongREJECT", benchmark="strongreject", metric="asr_harmful"),
    Column(key="orr", title="XSTest ORR", benchmark="xstest", metric="orr", judge="guard"),
    Column(key="maths", title="GSM8K", benchmark="gsm8k", metric="pass_at_1", better="higher"),
    Column(
        key="depth",
        title="Valley depth",
        benchmark="valley",
        metric="depth",
        unit="number",
        better="neither",
    ),
)
BOARD = Board(
    name="toy",
    title="Toy board",
    description="Harm, over-refusal and sums.",
    columns=COLUMNS,
    rank_by=("asr", "orr"),
    axes=("orr", "asr"),
    require={"thinking.budget": 512},
)


def cell(value: float | None = None, **more: Any) -> Cell:
    """A share with an interval of four points to each side, of 200 rollouts."""
    fields: dict[str, Any] = {"value": value, "fingerprint": PRINT, "judge": "guard"}
    if value is not None:
        fields |= {"low": max(value - 0.04, 0.0), "high": min(value + 0.04, 1.0), "n": 200}
    return Cell(**(fields | more))


def cells(asr: float, orr: float, maths: float | None = None) -> dict[str, Cell]:
    """The cells of a row whose depth nobody measured."""
    return {
        "asr": cell(asr, n=400),
        "hb": cell(asr, excluded={"unparsed": 3}, bounds=(asr - 0.01, asr + 0.02)),
        "sr": cell(asr),
        "orr": cell(orr),
        "maths": cell(maths, judge="", higher_is_better=True),
        "depth": Cell(unit="number", higher_is_better=None),
    }


def probed(metric: str, group: str, value: float, **more: Any) -> Score:
    """A number of a probe, known by the settings of its protocol."""
    fields: dict[str, Any] = {
        "benchmark": "first_token",
        "metric": metric,
        "group": group,
        "judge": "guard",
        "estimate": Estimate(value=value, low=value - 0.1, high=value + 0.1),
        "n": 40,
        "n_prompts": 40,
        "fingerprint": "feedfeedfeed",
        "unit": "number",
        "higher_is_better": None,
        "title": "refusal AUROC",
    }
    return Score(**(fields | more))


def measured(**more: Any) -> Score:
    """A rate of an ordinary benchmark."""
    fields: dict[str, Any] = {
        "benchmark": "harmbench",
        "metric": "asr_harmful",
        "judge": "guard",
        "estimate": Estimate(value=0.25, low=0.2, high=0.3),
        "n": 397,
        "n_prompts": 200,
        "outcomes": {"unharmful": 298, "harmful": 99},
        "excluded": {"unparsed": 3},
        "bounds": (0.24, 0.27),
        "fingerprint": PRINT,
    }
    return Score(**(fields | more))


def entry(label: str, **more: Any) -> Entry:
    """An entry with one rate and three numbers of probes."""
    guard = {"name": "guard", "version": "1", "identity": {"commit": "beef"}}
    fields: dict[str, Any] = {
        "model": f"org/{label}",
        "label": label,
        "revision": "abc1234def",
        "tseval_version": "0.1.0",
        "commit": "f6e2ab8",
        "date": "2026-11-22",
        "preset": "thinksafe",
        "identity": {"commit": "abc1234def"},
        "execution": {"engine": "vllm 0.9", "dtype": "bfloat16"},
        "protocols": {
            PRINT: {
                "benchmark": "harmbench",
                "metric": "asr_harmful",
                "judge": guard,
                "thinking": {"budget": 512, "mode": "default"},
            },
            "feedfeedfeed": {
                "benchmark": "first_token",
                "judge": guard,
                "settings": {"folds": "5"},
            },
        },
        "scores": (
            measured(),
            probed("auroc", "harmful · start", 0.8),
            probed("auroc", "harmful · end", 0.9),
            probed("auroc", "benign · start", 0.6),
        ),
        "files": {"scores.json": "ab" * 32, "outcomes.json": "cd" * 32},
        "digest": "0f" * 32,
    }
    return Entry(**(fields | more))


def row(label: str, asr: float, orr: float, maths: float | None = None, **more: Any) -> Row:
    """A measured row."""
    fields: dict[str, Any] = {
        "label": label,
        "slug": label.lower().replace(" ", "-"),
        "cells": cells(asr, orr, maths),
        "entry": entry(label),
    }
    return Row(**(fields | more))


def rows() -> tuple[Row, ...]:
    """Four rows: two share the first rank, one is worse than both, one is not ranked."""
    wren = entry("Wren demo", demonstration=True, note="made on a laptop")
    return (
        row("Heron 8B", 0.05, 0.10, 0.81, rank=1, better_than=("Finch 4B",)),
        row("Plover 8B", 0.08, 0.04, 0.78, rank=1, better_than=("Finch 4B",)),
        row("Finch 4B", 0.32, 0.12, rank=3, beaten_by=("Heron 8B", "Plover 8B")),
        row("Wren demo", 0.41, 0.02, 0.2, why_unranked="cut by --limit", entry=wren),
    )


def reported(label: str = "Heron 8B (paper)") -> Row:
    """A row that somebody published."""
    found = {column.key: Cell() for column in COLUMNS}
    found |= {"asr": Cell(value=0.0467), "maths": Cell(value=0.8, higher_is_better=True)}
    return Row(
        label=label,
        slug="heron-paper",
        cells=found,
        source="Heron et al., arXiv 2601.23143, table 2",
        note="judged by another guard",
    )


def standing(**more: Any) -> Standing:
    """A board with a main table, one of another protocol, and a reported row."""
    protocol = {"thinking.budget": 512, "sampling.temperature": 0.6}
    main = Table(
        title="The board's protocol",
        is_main=True,
        protocol=protocol,
        fingerprints=dict.fromkeys(("asr", "hb", "sr", "orr", "maths"), PRINT),
        protocols={"hb": entry("x").protocols[PRINT]},
        rows=rows(),
        ranked=True,
        ranked_by=("asr", "orr"),
    )
    other = Table(
        title="thinking.budget 96",
        protocol={"thinking.budget": 96},
        fingerprints={"orr": "96969696aaaa"},
        rows=(row("Heron 8B short", 0.2, 0.3, why_unranked="nothing to be ranked against"),),
    )
    fields: dict[str, Any] = {
        "board": BOARD,
        "tables": (main, other),
        "reported": (reported(),),
        "notes": ("One guard for all of it.",),
    }
    return Standing(**(fields | more))
