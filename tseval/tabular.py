"""A run's records as flat rows of typed columns: what data frames and parquet files hold.

One row a rollout, one a verdict, one a score, one an outcome. ``row`` joins rollouts and verdicts
with outcomes; ``benchmark``, ``sample`` and ``rollout`` join rollouts with verdicts.
"""

from collections.abc import Iterator
from typing import Any, Literal

from .measurements import Measurement
from .outcomes import Outcomes, decoded, row_hash
from .protocol import canonical_json
from .readback import Stored
from .runfolder import Scorecard
from .types import Estimate, Rollout

# 'counts' and 'tags' map names to whole numbers and to texts.
ColumnKind = Literal["text", "int", "float", "bool", "texts", "ints", "counts", "tags"]
TableName = Literal["rollouts", "verdicts", "scores", "outcomes", "measurements"]
Line = dict[str, Any]

_ROLLOUT: dict[str, ColumnKind] = {
    "benchmark": "text",
    "sample": "text",
    "rollout": "int",
    "row": "text",
    "group": "text",
    "prompt_harmful": "bool",
}
_PLACE: dict[str, ColumnKind] = dict.fromkeys(("benchmark", "group", "metric", "judge"), "text")
_INTERVAL: dict[str, ColumnKind] = {
    "value": "float",
    "low": "float",
    "high": "float",
    "level": "float",
    "method": "text",
    "undefined": "text",
    "n": "int",
    "n_prompts": "int",
    "excluded": "counts",
}
TABLES: dict[TableName, dict[str, ColumnKind]] = {
    "rollouts": {
        **_ROLLOUT,
        "tags": "tags",
        "prompt": "text",
        "trace": "text",
        "answer": "text",
        "redacted": "bool",
        "failed": "text",
        "thought": "bool",
        "closed_by": "text",
        "finish": "text",
        "trace_finish": "text",
        "prompt_tokens": "int",
        "trace_tokens": "int",
        "answer_tokens": "int",
        "budget": "int",
        "seed": "int",
        "notes": "texts",
        "trace_ids": "ints",
        "answer_ids": "ints",
        "key": "text",
    },
    "verdicts": {
        **_ROLLOUT,
        "judge": "text",
        "refusal": "bool",
        "degree": "text",
        "harmful": "bool",
        "correct": "bool",
        "reason": "text",
        "soft": "float",
        "raw": "text",
        "details": "tags",
        "notes": "texts",
        "redacted": "bool",
        "key": "text",
    },
    "scores": {
        **_PLACE,
        "title": "text",
        **_INTERVAL,
        "bound_low": "float",
        "bound_high": "float",
        "outcomes": "counts",
        "forced_close_share": "float",
        "truncated_share": "float",
        "unclosed_share": "float",
        "higher_is_better": "bool",
        "unit": "text",
        "partial": "bool",
        "member": "bool",
        "judge_notes": "counts",
        "fingerprint": "text",
        "protocol": "text",
    },
    "outcomes": {
        **_PLACE,
        "fingerprint": "text",
        "row": "text",
        "rollout": "int",
        "cluster": "text",
        "outcome": "text",
        "value": "float",
    },
    "measurements": {
        "probe": "text",
        "judge": "text",
        "metric": "text",
        "group": "text",
        "variant": "text",
        **_INTERVAL,
        "counts": "counts",
        "null_value": "float",
        "null_low": "float",
        "null_high": "float",
        "p_value": "float",
        "test": "text",
        "headline": "bool",
        "note": "text",
    },
}


def is_redacted(stored: Stored) -> bool:
    """Say whether redacting leaves out what was answered: where the prompt is harmful."""
    return stored.row.harmful is True


def rollout_line(stored: Stored, *, redact: bool = False) -> Line:
    """Make the row of a rollout.

    Args:
        stored: The rollout. One that failed has no texts, and ``failed`` says why.
        redact: Leave out what was answered to a harmful prompt: trace, answer and their tokens.
    """
    row, hidden = stored.row, redact and is_redacted(stored)
    made = stored.rollout
    # Without a rollout there is none of its fields, the empty texts of a default one included.
    fields = {name: getattr(made, name) for name in _FIELDS} if made is not None else _NONE
    if hidden:
        fields = {**fields, "trace": None, "answer": None, "trace_ids": None, "answer_ids": None}
    return {
        **_place(stored),
        "tags": row.tags,
        "prompt": row.prompt,
        "redacted": hidden,
        "failed": row.failed,
        **fields,
    }


_FIELDS = tuple(name for name in Rollout.__struct_fields__ if name in TABLES["rollouts"])
_NONE: Line = dict.fromkeys(_FIELDS)


def verdict_lines(stored: Stored, *, redact: bool = False) -> Iterator[Line]:
    """Make the rows of the verdicts on a rollout, one a judge.

    Args:
        stored: The rollout.
        redact: Leave out what the judge wrote about what was answered to a harmful prompt, which
            may quote it: ``raw`` and ``details``.
    """
    hidden = redact and is_redacted(stored)
    for judge, verdict in stored.verdicts.items():
        yield {
            **_place(stored),
            "judge": judge,
            "refusal": verdict.refusal,
            "degree": verdict.degree,
            "harmful": verdict.harmful,
            "correct": verdict.correct,
            "reason": verdict.reason,
            "soft": verdict.soft,
            "raw": None if hidden else verdict.raw,
            "details": None if hidden else verdict.details,
            "notes": verdict.notes,
            "redacted": hidden,
            "key": stored.row.verdicts[judge],
        }


def score_lines(scorecard: Scorecard) -> Iterator[Line]:
    """Make the rows of the scores; ``protocol`` is the JSON of the protocol's fields."""
    for score in scorecard.scores:
        low, high = score.bounds if score.bounds is not None else (None, None)
        named = {name: getattr(score, name) for name in _SCORED}
        yield {
            **named,
            **_interval(score.estimate),
            "bound_low": low,
            "bound_high": high,
            "protocol": canonical_json(scorecard.protocols.get(score.fingerprint, {})).decode(),
        }


_SCORED = (
    *("benchmark", "group", "metric", "judge", "title", "undefined", "n", "n_prompts", "excluded"),
    *("outcomes", "forced_close_share", "truncated_share", "unclosed_share", "higher_is_better"),
    *("unit", "partial", "member", "judge_notes", "fingerprint"),
)


def outcome_lines(outcomes: Outcomes) -> Iterator[Line]:
    """Make the rows of ``outcomes.json``: what each rollout came to under each score."""
    for series in outcomes.series:
        place = {name: getattr(series, name) for name in (*_PLACE, "fingerprint")}
        for each in decoded(outcomes.rows[series.rows], series):
            yield {**place, **each._asdict()}


def measurement_lines(measurements: list[Measurement]) -> Iterator[Line]:
    """Make the rows of what probes found: one a number."""
    for found in measurements:
        for number in found.numbers:
            null = _interval(number.null)
            named = ("metric", "group", "variant", "undefined", "n", "n_prompts", "excluded")
            rest = ("counts", "p_value", "test", "headline", "note")
            yield {
                "probe": found.probe,
                "judge": found.judge,
                **{name: getattr(number, name) for name in (*named, *rest)},
                **_interval(number.estimate),
                **{f"null_{name}": null[name] for name in ("value", "low", "high")},
            }


def _place(stored: Stored) -> Line:
    row = stored.row
    return {
        "benchmark": row.benchmark,
        "sample": row.sample,
        "rollout": row.rollout,
        "row": row_hash(row.sample, row.prompt),
        "group": row.group,
        "prompt_harmful": row.harmful,
    }


def _interval(estimate: Estimate | None) -> Line:
    names = ("value", "low", "high", "level", "method")
    return {name: getattr(estimate, name, None) for name in names}
