"""What makes two numbers comparable, and its fingerprint.

Three identities are kept apart (docs/concepts/protocols.md): the *subject* is what is compared and
may differ; the *protocol* is how it was measured and must match; the *execution* (engine, dtype,
versions) is recorded and may differ. A number without its protocol is no number.
"""

from hashlib import sha256
from typing import Any, Literal

import msgspec
from msgspec import Struct

from .errors import UnknownName
from .types import Sampling, TextJudged, Thinking

# Changes whenever the meaning of a field below changes; part of every fingerprint.
PROTOCOL_SCHEMA = 1


class JudgeIdentity(Struct, frozen=True, kw_only=True):
    """Everything about a judge that a verdict depends on.

    Attributes:
        name, version: As on its card.
        identity: Prompt hash, model revision, backend-independent settings.
        vote: Vote rule of a panel, or ''.
    """

    name: str
    version: str
    identity: dict[str, str] = {}
    vote: str = ""


class Protocol(Struct, frozen=True, kw_only=True):
    """How one number was measured; one belongs to each (benchmark, metric, judge).

    Attributes:
        benchmark, benchmark_version: Card name and version.
        content_hash: Hash of the prompts as they were read, not as the card promises.
        group: Part of the benchmark, or ''.
        limit: ``--limit``, or None for all rows.
        subset_seed: Seed that ranks the rows for ``limit``; None without a limit.
        messages: Shape of the conversation before templating; '{prompt}' stands for the prompt.
        thinking: Mode, budget and force-close rule.
        decoding: 'fixed' values in ``sampling``, or the 'recommended' ones of each model.
        sampling: Decoding values; with 'recommended', only its ``answer_tokens`` counts.
        rollouts: Rollouts per prompt.
        judge: The judge; None for metrics without one.
        text: Which text was judged.
        metric, metric_version: What was counted.
        settings: Sizes and constants of a probe; empty for other benchmarks.
    """

    benchmark: str
    benchmark_version: str
    content_hash: str
    metric: str
    metric_version: str
    group: str = ""
    limit: int | None = None
    subset_seed: int | None = None
    messages: tuple[str, ...] = ("user: {prompt}",)
    thinking: Thinking = Thinking()
    decoding: Literal["fixed", "recommended"] = "fixed"
    sampling: Sampling = Sampling()
    rollouts: int = 1
    judge: JudgeIdentity | None = None
    text: TextJudged = "answer"
    settings: dict[str, str] = {}

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits: the same in every process, different if any field differs."""
        return fingerprint(self.canonical())

    def canonical(self) -> dict[str, Any]:
        """Return the fields as plain values; ones without effect are left out."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        if self.decoding == "recommended":
            fields["sampling"] = {"answer_tokens": self.sampling.answer_tokens}
        if self.limit is None:
            # Without a limit every row is measured, whatever the seed that would rank them.
            fields["subset_seed"] = None
        if not self.settings:
            del fields["settings"]
        return {"schema": PROTOCOL_SCHEMA, **fields}


def canonical_json(value: Any) -> bytes:
    """Serialise plain values with sorted keys, so that key order never shows."""
    return msgspec.json.encode(value, order="sorted")


def fingerprint(value: Any) -> str:
    """Return the first twelve hex digits of the SHA-256 of the canonical JSON."""
    return sha256(canonical_json(value)).hexdigest()[:12]


def differing_fields(left: Protocol, right: Protocol) -> list[str]:
    """Name the fields in which two protocols differ, nested ones with dots, sorted."""
    return differing(left.canonical(), right.canonical())


def differing(left: Any, right: Any) -> list[str]:
    """Name the fields in which two plain values differ, nested ones with dots, sorted."""
    return sorted(_differing(left, right, ""))


def _differing(left: Any, right: Any, path: str) -> list[str]:
    if isinstance(left, dict) and isinstance(right, dict):
        names: list[str] = []
        for key in {*left, *right}:
            below = f"{path}.{key}" if path else key
            names.extend(_differing(left.get(key), right.get(key), below))
        return names
    return [] if left == right else [path]


class Preset(Struct, frozen=True, kw_only=True):
    """A named way of measuring (``--protocol``); flags override its fields.

    Attributes:
        name: As the flag takes it; an override shows as 'name+field'.
        summary: Where it comes from.
        judges: Specifications of the judges.
        decoding: 'fixed' values, or each model's 'recommended' ones.
        sampling: Decoding values.
        answer_tokens: Most tokens of the answer; None leaves it to the benchmark's card.
        thinking: Mode, budget, rule.
        rollouts: Rollouts per prompt.
        text: Which text is judged.
    """

    name: str
    summary: str
    judges: tuple[str, ...] = ("refusal-rules",)
    decoding: Literal["fixed", "recommended"] = "fixed"
    sampling: Sampling = Sampling()
    answer_tokens: int | None = None
    thinking: Thinking = Thinking()
    rollouts: int = 1
    text: TextJudged = "answer"


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="default",
            summary="temperature 0.6, top-p 0.95; one rollout; offline refusal rules on the answer",
        ),
        Preset(
            name="thinksafe",
            summary="arXiv 2601.23143: 16384 tokens, the model's own decoding; Llama Guard 3 on"
            " trace and answer, and on the answer alone; WildGuard likewise for refusals",
            judges=(
                "llama-guard-3-8b",
                "llama-guard-3-8b(text=answer)",
                "wildguard",
                "wildguard(text=answer)",
            ),
            decoding="recommended",
            thinking=Thinking(budget=16384, unclosed="judge-trace"),
            text="both",
        ),
        Preset(
            name="ri2026",
            summary="arXiv 2606.25013: the model's own decoding, four rollouts, 16384 thinking"
            " tokens, then force-close; four-guard panel on the answer",
            judges=("panel/ri2026",),
            decoding="recommended",
            rollouts=4,
            answer_tokens=1024,
        ),
    )
}


def preset(name: str) -> Preset:
    """Look up a preset; raise UnknownName with near misses."""
    if name not in PRESETS:
        raise UnknownName("protocol", name, PRESETS)
    return PRESETS[name]
