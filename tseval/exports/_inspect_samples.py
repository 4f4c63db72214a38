"""A rollout as a sample of an Inspect log."""

from typing import TYPE_CHECKING, Any

from tseval.readback import Stored
from tseval.tabular import is_redacted, rollout_line
from tseval.types import Rollout, Verdict

if TYPE_CHECKING:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ModelOutput
    from inspect_ai.scorer import Score

LEFT_OUT = "(left out: what was answered to a harmful prompt)"
# What a sample's metadata has beside its texts and tokens.
_KEPT = (
    *("benchmark", "rollout", "row", "group", "prompt_harmful", "tags", "redacted"),
    *("thought", "closed_by", "trace_finish", "budget", "seed", "notes"),
)


def sample_of(stored: Stored, *, model: str, system_prompt: str, redact: bool) -> "EvalSample":
    """Make a sample.

    Args:
        stored: The rollout with its verdicts.
        model: Name of the model.
        system_prompt: Of the run, or ''.
        redact: Leave out what was answered to a harmful prompt.
    """
    from inspect_ai.log import EvalError, EvalSample
    from inspect_ai.model import ChatMessageSystem, ChatMessageUser, ModelOutput

    row, rollout = stored.row, stored.rollout
    hidden = redact and is_redacted(stored)
    # Every message has an identity: made of the row, so that an export repeated is the same.
    place = f"{row.benchmark}/{row.sample}/{row.rollout}"
    asked: list[Any] = [ChatMessageUser(content=row.prompt, id=f"{place}/user")]
    if system_prompt:
        asked.insert(0, ChatMessageSystem(content=system_prompt, id=f"{place}/system"))
    output = ModelOutput(model=model)
    if rollout is not None:
        output = _output(rollout, model, f"{place}/assistant", hidden=hidden)
    line = rollout_line(stored, redact=redact)
    why = row.failed or ("" if rollout is not None else "the journal has no rollout for this row")
    return EvalSample(
        id=row.sample,
        epoch=row.rollout + 1,
        input=asked,
        target="",
        messages=[*asked, *(choice.message for choice in output.choices)],
        output=output,
        scores={
            judge: _score(verdict, hidden=hidden) for judge, verdict in stored.verdicts.items()
        },
        metadata={name: line[name] for name in _KEPT},
        model_usage={model: output.usage} if output.usage is not None else {},
        uuid=row.generation or place,
        error=EvalError(message=why, traceback=why, traceback_ansi=why) if why else None,
    )


def _output(rollout: Rollout, model: str, identity: str, *, hidden: bool) -> "ModelOutput":
    """Put trace and answer into one message: the trace as reasoning."""
    from inspect_ai.model import (
        ChatCompletionChoice,
        ChatMessageAssistant,
        ContentReasoning,
        ContentText,
        ModelOutput,
    )

    content: list[Any] = []
    if hidden:
        if rollout.thought:
            content.append(ContentReasoning(reasoning="", redacted=True))
        content.append(ContentText(text=LEFT_OUT))
    else:
        if rollout.thought or rollout.trace:
            content.append(ContentReasoning(reasoning=rollout.trace))
        if rollout.answer is not None:
            content.append(ContentText(text=rollout.answer))
    message = ChatMessageAssistant(content=content, model=model, source="generate", id=identity)
    reason: Any = "stop" if rollout.finish == "stop" else "max_tokens"
    return ModelOutput(
        model=model,
        choices=[ChatCompletionChoice(message=message, stop_reason=reason)],
        usage=_usage(rollout),
    )


def _usage(rollout: Rollout) -> Any:
    """Count tokens as Inspect does, reasoning among the output; None where a backend is silent."""
    from inspect_ai.model import ModelUsage

    if rollout.answer_tokens is None and rollout.trace_tokens is None:
        return None
    asked, reasoned = rollout.prompt_tokens or 0, rollout.trace_tokens or 0
    made = reasoned + (rollout.answer_tokens or 0)
    return ModelUsage(
        input_tokens=asked,
        output_tokens=made,
        total_tokens=asked + made,
        reasoning_tokens=reasoned,
    )


def _score(verdict: Verdict, *, hidden: bool) -> "Score":
    """Make a sample's score of a verdict: its labels, None where the judge gave none."""
    from inspect_ai.scorer import Score

    about: dict[str, Any] = {
        "degree": verdict.degree,
        "soft": verdict.soft,
        "notes": list(verdict.notes),
    }
    if not hidden:
        about["details"] = verdict.details
    return Score(
        value={
            "refusal": verdict.refusal,
            "harmful": verdict.harmful,
            "correct": verdict.correct,
            "reason": verdict.reason,
        },
        explanation=LEFT_OUT if hidden else verdict.raw,
        metadata=about,
    )
