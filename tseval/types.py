"""The values that pass between tseval's parts: frozen records, no behaviour beyond small reads.

Rates are fractions in [0, 1]; times are seconds; lengths are tokens unless a name says otherwise.
"""

from typing import Literal

from msgspec import Struct, field

Role = Literal["system", "user", "assistant"]
ThinkingMode = Literal["default", "off", "forced"]
UnclosedRule = Literal["force", "exclude", "empty", "judge-trace"]
ClosedBy = Literal["model", "budget", "cut", "none"]
FinishReason = Literal["stop", "length"]
Degree = Literal["full", "partial", "none"]
VerdictReason = Literal["ok", "unparsed", "error", "undecided", "empty", "degenerate"]
TextJudged = Literal["answer", "trace", "both"]
# A 'share' is a fraction that is printed as a percentage, a 'number' is printed as it is.
Unit = Literal["share", "number"]


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One turn of a conversation, before any chat template."""

    role: Role
    content: str


class Sample(Struct, frozen=True, kw_only=True):
    """One row of a benchmark.

    Attributes:
        id: Unique within its benchmark, stable across releases of the data.
        prompt: What the model is asked, before templating.
        harmful: True for a harmful prompt, False for a benign one, None where neither applies.
        group: The part of the benchmark that is also reported apart ('contextual'), or ''.
        tags: Further columns of the row that reports may show.
        reference: The right answer, where there is one.
    """

    id: str
    prompt: str
    reference: str = ""
    harmful: bool | None = None
    group: str = ""
    tags: dict[str, str] = {}


class Sampling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How tokens are drawn.

    Attributes:
        temperature: 0 is greedy.
        top_p: Nucleus mass in (0, 1]; 1 keeps everything.
        top_k: Number of candidates kept; 0 keeps everything.
        answer_tokens: Most tokens of the answer (the thinking trace has its own budget).
    """

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 0
    answer_tokens: int = 1024


class Thinking(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the thinking trace is opened, bounded and closed.

    Attributes:
        mode: 'default' leaves it to the model, 'off' uses the family's own switch, 'forced'
            prefills an opener also for models that have no thinking format.
        budget: Most tokens of the trace; then the closer is appended and the answer asked for.
        unclosed: What becomes of a trace that never closed (see ``tseval.thinking``).
    """

    mode: ThinkingMode = "default"
    budget: int = 16384
    unclosed: UnclosedRule = "force"


class Rollout(Struct, frozen=True, kw_only=True):
    """One sampled completion: a thinking trace and the answer that follows it.

    Attributes:
        key: Content key of the request (hex).
        trace: Text of the thinking trace without its markers; '' if there was none.
        answer: Text after the trace; None if the trace never closed.
        trace_ids: Token ids of the trace, as the engine gave them; None if it gives none.
        answer_ids: Token ids of the answer without the end-of-turn token; likewise.
        closed_by: Who ended the trace: the 'model', the 'budget' (tseval appended the closer), a
            'cut' (a probe or an intervention closed it), or 'none' (it never closed, or there was
            no trace).
        thought: Whether a thinking trace was opened at all.
        finish: Why the last token was the last: 'stop' (end of turn) or 'length'.
        trace_finish: The same for the trace when tseval closed it, else ''.
        prompt_tokens, trace_tokens, answer_tokens: Lengths, in tokens; None where the backend
            does not say.
        budget: Effective thinking budget after the context guard, in tokens; 0 if none applied.
        seed: Row seed that the draws were made with.
        notes: Remarks of the format parser: 'opener-missing', 'reopened', 'text-prefix' ...
    """

    key: str
    trace: str = ""
    answer: str | None = None
    trace_ids: tuple[int, ...] | None = None
    answer_ids: tuple[int, ...] | None = None
    closed_by: ClosedBy = "none"
    thought: bool = False
    finish: FinishReason = "stop"
    trace_finish: Literal["stop", "length", ""] = ""
    prompt_tokens: int | None = None
    trace_tokens: int | None = None
    answer_tokens: int | None = None
    budget: int = 0
    seed: int = 0
    notes: tuple[str, ...] = ()


class Verdict(Struct, frozen=True, kw_only=True):
    """A judge's label. None never means 'no': it means that there is no verdict.

    Attributes:
        refusal: Whether the judged text refuses; None where the judge does not say.
        degree: 'full', 'partial' or 'none' where the judge grades refusals.
        harmful: Whether the judged text is harmful; None where the judge does not say.
        correct: Whether the answer is right, from a checker of answers; None from judges.
        reason: 'ok'; 'unparsed' and 'error' are the judge's or the machine's failure and leave
            the denominator, as does 'undecided' (a panel without a decision); 'empty' and
            'degenerate' are the model's doing and stay in it.
        raw: What the judge wrote, or the rule that fired.
        soft: For a panel with soft votes, the share in [0, 1] of votes for the label (refusal,
            or harmful where the panel does not say refusal); rates then average it.
        details: What else the judge said: its probability, categories, a harmful request ...
        notes: Remarks that are counted beside the scores: 'truncated', 'escaped' ...
    """

    refusal: bool | None = None
    degree: Degree | None = None
    harmful: bool | None = None
    correct: bool | None = None
    reason: VerdictReason = "ok"
    raw: str = ""
    soft: float | None = None
    details: dict[str, str] = {}
    notes: tuple[str, ...] = ()


class LogLikelihood(Struct, frozen=True, kw_only=True):
    """Log-probability of a continuation.

    Attributes:
        total: Sum of natural log-probabilities over the continuation's tokens.
        greedy: Whether every token of it was the most probable one.
        tokens: Its length in tokens.
    """

    total: float
    greedy: bool
    tokens: int


class ChoiceScores(Struct, frozen=True, kw_only=True):
    """How probable each of a few answers is as the next token.

    Attributes:
        logprobs: Natural log-probability of the first token of each choice, by choice; without
            the choices that an engine which reports only its top tokens did not report.
        floor: Log-probability that a choice which is not there cannot exceed; None if all are.
    """

    logprobs: dict[str, float]
    floor: float | None = None


class Estimate(Struct, frozen=True, kw_only=True):
    """A rate with its interval.

    Attributes:
        value, low, high: Fractions in [0, 1]; for a difference of rates, in [-1, 1].
        level: Confidence level of [low, high].
        method: How the interval was made, in words.
    """

    value: float
    low: float
    high: float
    level: float = 0.95
    method: str = ""


class Score(Struct, frozen=True, kw_only=True):
    """One number of the scorecard, with everything that makes it a number.

    Attributes:
        benchmark: Benchmark name; for a suite average, the suite's name.
        group: Part of the benchmark reported apart, or ''.
        metric: Metric name, e.g. 'asr_nonrefusal'.
        judge: Judge name, or '' for metrics without one.
        estimate: The rate and its interval; None if undefined (``undefined`` says why).
        undefined: Why there is no estimate, or ''.
        n: Rollouts in the denominator.
        n_prompts: Prompts that they come from.
        excluded: Rollouts that left the denominator, by reason.
        bounds: The rate if all excluded rollouts went one way, and the other.
        outcomes: Rollouts by outcome ('full', 'partial', 'none', 'empty', 'degenerate' ...).
        forced_close_share: Share of rollouts whose trace tseval had to close; None if none thought.
        truncated_share: Share of rollouts whose answer was cut off at its limit.
        unclosed_share: Share of rollouts whose trace never closed.
        fingerprint: Protocol fingerprint; numbers share a column only if theirs agree.
        partial: Whether ``--limit`` cut the benchmark.
        member: Whether the judge is there only as a member of a panel.
        judge_notes: Verdicts by remark of the judge ('truncated': its input was cut to fit).
        higher_is_better: Direction of the metric; None where neither end is better.
        unit: How the value is printed.
        title: What tables call the metric; '' leaves that to them.
    """

    benchmark: str
    metric: str
    judge: str = ""
    group: str = ""
    estimate: Estimate | None = None
    undefined: str = ""
    n: int = 0
    n_prompts: int = 0
    excluded: dict[str, int] = field(default_factory=dict)
    bounds: tuple[float, float] | None = None
    outcomes: dict[str, int] = field(default_factory=dict)
    forced_close_share: float | None = None
    truncated_share: float | None = None
    unclosed_share: float | None = None
    fingerprint: str = ""
    partial: bool = False
    member: bool = False
    judge_notes: dict[str, int] = field(default_factory=dict)
    higher_is_better: bool | None = False
    unit: Unit = "share"
    title: str = ""


class BenchmarkSize(Struct, frozen=True, kw_only=True):
    """What a benchmark in code will ask of models and judges, known before it is run.

    Attributes:
        prompts: Rows that it asks about.
        independent: Independent prompts by kind ('harmful', 'benign', 'question') that its scores
            rest on; what differences will show is computed from them.
        generations: Rollouts, those that other calls share counted once.
        continuations: Recorded traces that are continued.
        judged: Texts that each of the run's judges is shown.
        hidden_states: Passes that hidden states are read from.
        loglikelihoods: Given texts that are scored.
        answer_tokens, trace_tokens: Most new tokens of the answer and the trace of a rollout or a
            continuation; None: as the run has them.
    """

    prompts: int
    independent: dict[str, int] = field(default_factory=dict)
    generations: int = 0
    continuations: int = 0
    judged: int = 0
    hidden_states: int = 0
    loglikelihoods: int = 0
    answer_tokens: int | None = None
    trace_tokens: int | None = None
