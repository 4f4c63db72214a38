"""tseval: from checkpoint to scorecard.

The public names; each is loaded when it is first used, so that ``import tseval`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cards import BenchmarkCard, ProbeCard, Suite
    from .errors import (
        BackendError,
        BackendUnavailable,
        CapabilityMissing,
        ConfigError,
        DataError,
        JournalError,
        NotComparable,
        PluginError,
        RequestFailed,
        RowSkipped,
        StatisticsError,
        TsevalError,
        UnknownName,
    )
    from .hookspecs import hookimpl
    from .loaded import Judgement, Run, load_run
    from .measurements import Curve, Grid, Measurement, MeasureSpec, Number
    from .metrics import Judged, outcome_of, score
    from .outcomes import row_hash
    from .panels import Panel, VoteRule
    from .prompt_benchmark import PromptBenchmark, register_cards, register_suites
    from .protocol import Protocol
    from .readback import Stored
    from .requests import (
        Capabilities,
        ChoiceRequest,
        Completion,
        CompletionRequest,
        ModelSpec,
        Subject,
    )
    from .roles import (
        Backend,
        BackendFactory,
        Benchmark,
        Judge,
        JudgeCard,
        JudgeCase,
        JudgeModel,
        MetricSpec,
        Question,
        StanceJudge,
    )
    from .rollouts import Continuation
    from .session import Session
    from .spec import RunSpec
    from .stances import StanceCase, Stances
    from .types import (
        BenchmarkSize,
        ChoiceScores,
        Estimate,
        LogLikelihood,
        Message,
        Rollout,
        Sample,
        Sampling,
        Score,
        Thinking,
        Verdict,
    )

_HOMES: dict[str, tuple[str, ...]] = {
    "cards": ("BenchmarkCard", "ProbeCard", "Suite"),
    "errors": (
        "BackendError",
        "BackendUnavailable",
        "CapabilityMissing",
        "ConfigError",
        "DataError",
        "JournalError",
        "NotComparable",
        "PluginError",
        "RequestFailed",
        "RowSkipped",
        "StatisticsError",
        "TsevalError",
        "UnknownName",
    ),
    "hookspecs": ("hookimpl",),
    "loaded": ("Judgement", "Run", "load_run"),
    "measurements": ("Curve", "Grid", "Measurement", "MeasureSpec", "Number"),
    "metrics": ("Judged", "outcome_of", "score"),
    "outcomes": ("row_hash",),
    "panels": ("Panel", "VoteRule"),
    "prompt_benchmark": ("PromptBenchmark", "register_cards", "register_suites"),
    "protocol": ("Protocol",),
    "readback": ("Stored",),
    "requests": (
        "Capabilities",
        "ChoiceRequest",
        "Completion",
        "CompletionRequest",
        "ModelSpec",
        "Subject",
    ),
    "roles": (
        "Backend",
        "BackendFactory",
        "Benchmark",
        "Judge",
        "JudgeCard",
        "JudgeCase",
        "JudgeModel",
        "MetricSpec",
        "Question",
        "StanceJudge",
    ),
    "rollouts": ("Continuation",),
    "session": ("Session",),
    "spec": ("RunSpec",),
    "stances": ("StanceCase", "Stances"),
    "types": (
        "BenchmarkSize",
        "ChoiceScores",
        "Estimate",
        "LogLikelihood",
        "Message",
        "Rollout",
        "Sample",
        "Sampling",
        "Score",
        "Thinking",
        "Verdict",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Backend",
    "BackendError",
    "BackendFactory",
    "BackendUnavailable",
    "Benchmark",
    "BenchmarkCard",
    "BenchmarkSize",
    "Capabilities",
    "CapabilityMissing",
    "ChoiceRequest",
    "ChoiceScores",
    "Completion",
    "CompletionRequest",
    "ConfigError",
    "Continuation",
    "Curve",
    "DataError",
    "Estimate",
    "Grid",
    "JournalError",
    "Judge",
    "JudgeCard",
    "JudgeCase",
    "JudgeModel",
    "Judged",
    "Judgement",
    "LogLikelihood",
    "MeasureSpec",
    "Measurement",
    "Message",
    "MetricSpec",
    "ModelSpec",
    "NotComparable",
    "Number",
    "Panel",
    "PluginError",
    "ProbeCard",
    "PromptBenchmark",
    "Protocol",
    "Question",
    "RequestFailed",
    "Rollout",
    "RowSkipped",
    "Run",
    "RunSpec",
    "Sample",
    "Sampling",
    "Score",
    "Session",
    "StanceCase",
    "StanceJudge",
    "Stances",
    "StatisticsError",
    "Stored",
    "Subject",
    "Suite",
    "Thinking",
    "TsevalError",
    "UnknownName",
    "Verdict",
    "VoteRule",
    "__version__",
    "hookimpl",
    "load_run",
    "outcome_of",
    "register_cards",
    "register_suites",
    "row_hash",
    "score",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version  # 40 ms, seldom needed

        try:
            return version("tseval")
        except PackageNotFoundError:
            return "0+uninstalled"
    if name not in _HOME:
        raise AttributeError(f"module 'tseval' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
