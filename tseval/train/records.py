"""Records of a training: what is wanted, what it is trained on, and what came of it."""

from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from tseval.protocol import fingerprint
from tseval.requests import ModelSpec, Subject
from tseval.types import Estimate, Sampling, Thinking

from .looks import PanelRecord

PromptKind = Literal["harmful", "benign"]
Status = Literal["gathering", "fitting", "complete", "interrupted", "failed"]
RECORD_SCHEMA = 1


class Adapter(Struct, frozen=True, kw_only=True):
    """The LoRA adapter that is trained.

    Source: arXiv 2601.23143 trains rank 32, alpha 16, dropout 0.05, on PEFT's default targets.
    Differs: All linear layers by default: PEFT's defaults are other layers for each architecture.

    Attributes:
        rank, alpha, dropout: As PEFT has them.
        targets: 'all-linear' (of state-space mixers the projection into them alone: fused kernels
            read their other weights past an adapter), 'default' (PEFT's choice for the
            architecture), or names of modules separated by blanks.
    """

    rank: int = 32
    alpha: int = 16
    dropout: float = 0.05
    targets: str = "all-linear"


class Fit(Struct, frozen=True, kw_only=True):
    """How an adapter is fitted.

    Attributes:
        epochs: Passes over the examples; ``max_steps`` ends sooner.
        max_steps: Optimiser steps, or None.
        learning_rate, warmup, clip: Peak rate, share of steps that rise to it, and the norm that
            gradients are clipped to; the rate falls as a cosine.
        batch: Examples a step, over all processes.
        micro_batch: Examples a forward pass; None: as many as fit ``micro_tokens``.
        micro_tokens: Most tokens of a forward pass where ``micro_batch`` is None.
        max_tokens: Longest example, prompt included; longer ones are dropped and counted, never
            cut.
        kl: Weight of the forward KL to the base model, in place of cross-entropy on benign
            examples; 0 trains all on cross-entropy.
        save_steps: Steps between checkpoints, or None: at the end of each epoch.
        dtype: 'auto', 'bfloat16' or 'float32', of the frozen weights; adapters are float32.
        seed: Of the order of examples, dropout and the adapter's beginning.
    """

    epochs: float = 3.0
    max_steps: int | None = None
    learning_rate: float = 1e-5
    warmup: float = 0.1
    clip: float = 1.0
    batch: int = 8
    micro_batch: int | None = None
    micro_tokens: int = 4096
    max_tokens: int = 16384
    kl: float = 0.0
    save_steps: int | None = None
    dtype: str = "auto"
    seed: int = 0


class Panel(Struct, frozen=True, kw_only=True):
    """What is evaluated before, during and after a training, on the same prompts.

    Attributes:
        suites: Suites or benchmarks; none: nothing is evaluated.
        steps: Optimiser steps between looks, or None: before and after only.
        prompts: Prompts a benchmark in each half; selection and the final figures use halves that
            share no prompt and no near-duplicate.
        judges: As ``RunSpec.judges``.
        rule: How the best checkpoint is chosen; see ``tseval.train.looks``.
        alpha: One-sided level of the test that stops early, spent over all looks.
        margin: Rise of the over-refusal rate that is allowed, in shares.
        answer_tokens: Most tokens of an answer; None: as the cards of the benchmarks have it.
        data_dirs: Local mirrors.
    """

    suites: tuple[str, ...] = ()
    steps: int | None = None
    prompts: int = 100
    judges: tuple[str, ...] = ("refusal-rules",)
    rule: str = "least-asr"
    alpha: float = 0.05
    margin: float = 0.05
    answer_tokens: int | None = None
    data_dirs: tuple[str, ...] = ()


class Recipe(Struct, frozen=True, kw_only=True):
    """Everything that determines a training.

    Attributes:
        method: Registered trainer.
        model: The model that is trained.
        harmful, benign: Prompt sources: 'safechain', JSON Lines files, or benchmarks; in order.
        teacher: Files of finished answers, for trainers that take them.
        max_harmful, max_benign: Prompts of each kind, or None: all.
        draws: Answers a harmful prompt; benign prompts get one.
        sampling, thinking: How answers are drawn.
        judges, judge_options: What filters them, as in ``RunSpec``; all have to find an answer
            safe.
        select: 'all', or 'deliberative': accepted traces are weighted by the effect of their cuts.
        adapter, fit, panel: See there.
        data_dirs: Local mirrors of prompt sources; not part of the hash.
        seed: Seed of the draws.
        options: The trainer's own ``-T`` options, uninterpreted.
    """

    method: str
    model: ModelSpec
    harmful: tuple[str, ...] = ("safechain",)
    benign: tuple[str, ...] = ("safechain",)
    teacher: tuple[str, ...] = ()
    max_harmful: int | None = None
    max_benign: int | None = None
    draws: int = 1
    sampling: Sampling = Sampling(temperature=0.6, top_p=0.95, answer_tokens=16384)
    thinking: Thinking = Thinking(unclosed="exclude")
    judges: tuple[str, ...] = ("llama-guard-3",)
    judge_options: dict[str, str] = {}
    select: Literal["all", "deliberative"] = "all"
    adapter: Adapter = Adapter()
    fit: Fit = Fit()
    panel: Panel = Panel()
    data_dirs: tuple[str, ...] = ()
    seed: int = 0
    options: dict[str, str] = {}

    @property
    def hash(self) -> str:
        """Twelve hex digits; equal for two recipes that train the same thing."""
        import msgspec

        # As it is read back from a file: a whole number that stands for a fraction is one.
        same = msgspec.convert(msgspec.to_builtins(self), Recipe)
        fields: dict[str, Any] = msgspec.to_builtins(same)
        del fields["data_dirs"], fields["judge_options"], fields["panel"]["data_dirs"]
        # How much is held in memory at once, and how often it is saved, change no step.
        for name in ("micro_batch", "micro_tokens", "save_steps"):
            del fields["fit"][name]
        return fingerprint(fields)


class Prompt(Struct, frozen=True, kw_only=True):
    """A prompt to train on.

    Attributes:
        id: Hash of its text.
        text: What is asked.
        kind: Which pool.
        source: File or benchmark it came from.
        cluster: What its benchmark says it is a variant of; '' if it says nothing.
    """

    id: str
    text: str
    kind: PromptKind
    source: str
    cluster: str = ""


class Example(Struct, frozen=True, kw_only=True):
    """One row that is trained on: a prompt, and the model's own or a teacher's answer to it.

    Attributes:
        id: Content hash of prompt, trace and answer.
        prompt: What the user says; never the steering notice.
        kind: Which pool the prompt came from.
        trace: The thinking trace without its markers; '' if there is none.
        answer: What follows it.
        thought: Whether the trace's markers are trained, also around an empty trace.
        steered: Whether the answer was drawn under the notice.
        source: File of the prompt.
        draw: Content key of the rollout; '' for a teacher's.
        weight: In the loss; scaled to a mean of 1 over each pool as it is trained.
    """

    id: str
    prompt: str
    kind: PromptKind
    trace: str
    answer: str
    thought: bool
    steered: bool = False
    source: str = ""
    draw: str = ""
    weight: float = 1.0


class Fall(Struct, frozen=True, kw_only=True):
    """How many rows fell at one step of the filter, and how many went on.

    Attributes:
        step: 'failed', 'closed', 'safe-answer', 'safe-trace', 'refuses', 'leak', 'loop',
            'duplicate' ...
        kind: Which pool.
        came, fell: Rows that came to the step, and that fell there.
        unknown: Of those that fell, rows that got no verdict.
        applies: False where the step means nothing for the model, with the reason in ``note``.
        note: Said beside the row.
    """

    step: str
    kind: PromptKind
    came: int
    fell: int
    unknown: int = 0
    applies: bool = True
    note: str = ""


class Acceptance(Struct, frozen=True, kw_only=True):
    """Share of draws that were accepted, with an interval clustered by prompt where draws > 1."""

    kind: PromptKind
    prompts: int
    draws: int
    accepted: int
    estimate: Estimate | None = None


class Gathered(Struct, frozen=True, kw_only=True):
    """What a trainer will be fitted on.

    Attributes:
        examples: In the order of their prompts.
        prompts: Prompts of each kind that were used.
        falls: Every step of the filter, in order.
        acceptance: By kind.
        dropped: Prompts (of a teacher: rows) that were not used, by reason: 'near-duplicate of an
            evaluated prompt' ...
        tokens: Tokens that were generated.
        notes: Remarks for the record.
    """

    examples: tuple[Example, ...] = ()
    prompts: dict[str, int] = {}
    falls: tuple[Fall, ...] = ()
    acceptance: tuple[Acceptance, ...] = ()
    dropped: dict[str, int] = {}
    tokens: int = 0
    notes: tuple[str, ...] = ()


class Compute(Struct, frozen=True, kw_only=True):
    """What a phase cost.

    Attributes:
        phase: 'gather', 'fit' or 'panel'.
        seconds: Wall time, over all processes that worked on it one after the other.
        tokens: Tokens generated (gather, panel) or passed through the model (fit).
        flops: Floating-point operations, estimated as the formula in ``tseval.train.cost`` says;
            None where they, or those of an earlier process, could not be counted.
        uncounted: Why not, or ''.
        joules: Energy of the devices where it can be read, else None.
        peak_bytes: Most memory held, of the device or else of the process.
    """

    phase: str
    seconds: float
    tokens: int = 0
    flops: float | None = 0.0
    uncounted: str = ""
    joules: float | None = None
    peak_bytes: int | None = None


class StepLog(Struct, frozen=True, kw_only=True):
    """One optimiser step: its number, loss, gradient norm, rate, and the tokens it was given.

    ``tokens`` were passed through the model, ``labelled`` of them had a label.
    """

    step: int
    loss: float
    grad_norm: float | None = None
    learning_rate: float | None = None
    tokens: int = 0
    labelled: int = 0
    more: dict[str, float] = {}


class Fitted(Struct, frozen=True, kw_only=True):
    """What fitting left.

    Attributes:
        adapter: Folder of the adapter that is the result.
        step: Its optimiser step; the last one unless a panel chose another.
        log: Every step.
        dropped: Examples that could not be trained on, by reason.
        compute: Of the fit alone.
        stopped: Why it ended before its last step, or ''.
        notes: Remarks for the record.
    """

    adapter: Path
    step: int
    log: tuple[StepLog, ...] = ()
    dropped: dict[str, int] = {}
    compute: Compute
    stopped: str = ""
    notes: tuple[str, ...] = ()


class TrainRecord(Struct, kw_only=True):
    """``train.json``: everything about a training, and all that is needed to run it again.

    Attributes:
        recipe, recipe_hash: What was wanted.
        status: 'gathering' and 'fitting' also mark a process that was killed.
        subject: Identity of the base model; None until it has been loaded.
        versions: Of tseval, Python and the libraries.
        command: The command line.
        unread: Fields of the recipe that the trainer has no use for.
        files: sha256 of every file of prompts or answers, by the name that the recipe has for it.
        gathered: Without its examples, which stand in ``data/train.jsonl``.
        fitted: None until there is an adapter.
        compute: Of every phase.
        panel: What the panel found; None without one.
        warnings: Remarks that belong beside the results.
        schema: Of this file.
    """

    recipe: Recipe
    recipe_hash: str
    status: Status = "gathering"
    subject: Subject | None = None
    versions: dict[str, str] = {}
    command: str = ""
    unread: tuple[str, ...] = ()
    files: dict[str, str] = {}
    gathered: Gathered | None = None
    fitted: Fitted | None = None
    compute: list[Compute] = []
    panel: PanelRecord | None = None
    warnings: list[str] = []
    schema: int = RECORD_SCHEMA
