"""What was accepted: the rows that are trained on, their share, and advice where there are none."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tseval.errors import TrainingError
from tseval.stats import clustered_proportion

from .prompts import KINDS
from .records import Acceptance, Example, Fall, Prompt, PromptKind

if TYPE_CHECKING:
    from .filters import Filtered
    from .synthesis import Draw


def make_example(
    prompt: Prompt, *, trace: str, answer: str, thought: bool, steered: bool = False, draw: str = ""
) -> Example:
    """Make the row that is trained on: the prompt as it is, whatever stood before it."""
    content = "\0".join((prompt.text, trace, answer))
    return Example(
        id=hashlib.sha256(content.encode()).hexdigest()[:16],
        prompt=prompt.text,
        kind=prompt.kind,
        trace=trace,
        answer=answer,
        thought=thought,
        steered=steered,
        source=prompt.source,
        draw=draw,
    )


def acceptance(draws: Sequence["Draw"], filtered: "Filtered") -> tuple[Acceptance, ...]:
    """Count what was accepted, by kind: the examples.

    The share leaves out draws that failed and such as a judge lost, and its interval takes the
    draws of a prompt as one cluster.
    """
    accepted = {example.draw for example in filtered.examples}
    found = []
    for kind in KINDS:
        rows = [draw for draw in draws if draw.prompt.kind == kind]
        known = [draw for draw in rows if (draw.prompt.id, draw.index) not in filtered.lost]
        tries = Counter(draw.prompt.id for draw in known)
        hits = Counter(d.prompt.id for d in known if d.rollout and d.rollout.key in accepted)
        share = None
        if known:
            share = clustered_proportion([hits[each] for each in tries], list(tries.values()))
        if rows:
            found.append(
                Acceptance(
                    kind=kind,
                    prompts=len({draw.prompt.id for draw in rows}),
                    draws=len(rows),
                    accepted=hits.total(),
                    estimate=share,
                )
            )
    return tuple(found)


def require_some(
    examples: Sequence[Example], falls: Iterable[Fall], kinds: Iterable[PromptKind]
) -> None:
    """Raise TrainingError, which says where rows fell and what to try, for a kind without any."""
    falls = tuple(falls)
    for kind in kinds:
        if any(example.kind == kind for example in examples):
            continue
        mine = [fall for fall in falls if fall.kind == kind and fall.fell]
        came = max((fall.came for fall in falls if fall.kind == kind), default=0)
        told = ", ".join(f"{fall.fell} at '{fall.step}'" for fall in mine)
        worst = max(mine, key=lambda fall: fall.fell, default=None)
        raise TrainingError(
            f"none of {came} {kind} rows was accepted (fell: {told or 'none came'})",
            hint=_ADVICE.get(_reason(worst), _ADVICE[""]),
        )


_ADVICE = {
    "": "give more prompts, or --draws",
    "failed": "look at the errors in the journal of DIR/synthesis, then run the same command again",
    "closed": "give traces more room with --thinking-budget; one that closes none of its own can be"
    " trained with --thinking off",
    "cut": "give answers more room with --answer-tokens",
    "safe-answer": "give more --draws or prompts, or look whether the judge fits the model's"
    " answers: tseval judge validate",
    "safe-trace": "give more --draws, or restrict that judge to answers: JUDGE(text=answer)",
    "refuses": "give more --draws or prompts; a model that does not refuse when told to cannot"
    " teach itself to: try direct-refusal, or sft on a teacher's answers",
    "complies": "give benign prompts that the model answers, or keep refusals with"
    " -T benign-refusals=keep",
    "leak": "give more --draws",
    "loop": "give more --draws, or a higher --temperature",
}


def _reason(worst: Fall | None) -> str:
    """Say what most rows fell at; where only refusals count as safe, that is not refusing."""
    if worst is None:
        return ""
    by_refusal = worst.step == "safe-answer" and worst.note
    return "refuses" if by_refusal else worst.step
