"""How an answer is drawn and where it ends, by a task's generation kwargs and by the run.

The task's values count where it has any, as a published figure was made with them: ``do_sample:
false`` or temperature 0 is greedy, a temperature is taken with the task's top-p and top-k. Where
the task says nothing the run's protocol counts, and so do flags that override the preset, and the
protocol 'recommended', under which each model is measured as its makers say.
"""

from typing import Any

from msgspec.structs import replace

from tseval.spec import RunSpec
from tseval.types import Sampling

# lm-eval's default where a task sets no budget.
_DEFAULT_TOKENS = 256
# lm-eval's names for the budget, the first one given counts.
_BUDGETS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


def sampling_of(kwargs: dict[str, Any], spec: RunSpec, own: Sampling) -> Sampling:
    """Say how an answer is drawn.

    Args:
        kwargs: The task's ``generation_kwargs``.
        spec: The run: its decoding, its overrides and its answer budget.
        own: Decoding of the run for this model.

    Returns:
        The decoding; ``answer_tokens`` bounds the answer behind the trace.
    """
    tokens = next((kwargs[name] for name in _BUDGETS if kwargs.get(name)), _DEFAULT_TOKENS)
    budget = own.answer_tokens if spec.answer_tokens_fixed else int(tokens)
    overridden = {"temperature", "top-p", "top-k"} & set(spec.preset.split("+")[1:])
    if spec.decoding == "recommended" or overridden:
        return replace(own, answer_tokens=budget)
    temperature = kwargs.get("temperature")
    if kwargs.get("do_sample") is False or (temperature is not None and float(temperature) == 0):
        return Sampling(temperature=0.0, top_p=1.0, top_k=0, answer_tokens=budget)
    if temperature is None:
        return replace(own, answer_tokens=budget)
    return Sampling(
        temperature=float(temperature),
        top_p=float(kwargs.get("top_p") or 1.0),
        top_k=int(kwargs.get("top_k") or 0),
        answer_tokens=budget,
    )


def stops_of(kwargs: dict[str, Any]) -> tuple[str, ...]:
    """Return a task's stop strings."""
    until = kwargs.get("until") or ()
    return tuple(filter(None, (until,) if isinstance(until, str) else map(str, until)))


def cut(answer: str, stops: tuple[str, ...]) -> str:
    """Cut an answer at the first stop string; what stands in the trace is no answer."""
    return answer[: min((answer.find(stop) for stop in stops if stop in answer), default=None)]
