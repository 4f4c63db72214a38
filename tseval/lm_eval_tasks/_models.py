"""In a worker: the two models that lm-eval is given, one that notes prompts, one that replays."""

import json
import re
from collections.abc import Callable
from typing import Any

from .records import Template, canonical

# Stands for the special tokens that a template writes, which no prompt holds.
_BOS, _EOS = "\ue000bos\ue000", "\ue000eos\ue000"
# What backends ask in the one-turn conversation by which they show their template.
_ONE_TURN = ("Hello.", "x", "Hello")


def asking_model() -> Any:
    """Make a model whose 'prompts' are the conversations, written down."""
    from lm_eval.api.model import LM

    class Asking(LM):  # type: ignore[misc]
        tokenizer_name = "tseval"

        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            return canonical(*_parted(chat_history, add_generation_prompt))

        def loglikelihood(self, requests: Any) -> Any:
            raise NotImplementedError

        loglikelihood_rolling = generate_until = loglikelihood

    return Asking()


def replaying_model(template: Template) -> Any:
    """Make a model that answers what was answered before."""
    from lm_eval.api.model import LM

    render = renderer(template)

    class Replaying(LM):  # type: ignore[misc]
        tokenizer_name = "tseval"

        def __init__(self) -> None:
            super().__init__()
            self._asked: dict[str, str] = {}
            self._answers: dict[int, list[Any]] = {}

        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            turns, prefill = _parted(chat_history, add_generation_prompt)
            shown = render(turns, prefill)
            self._asked[shown] = canonical(turns, prefill)
            return shown

        def asked_for(self, shown: str) -> str:
            """Give back the conversation behind a rendered prompt."""
            return self._asked.get(shown, shown)

        def remember(self, instance: Any, responses: Any) -> None:
            """Keep the answers of a request, one a repetition."""
            self._answers[id(instance)] = list(reversed(responses))

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return [self._answers[id(request)].pop() for request in requests]

        def loglikelihood(
            self, requests: list[Any], disable_tqdm: bool = False
        ) -> list[tuple[float, bool]]:
            found = (self._answers[id(request)].pop() for request in requests)
            return [(float(total), bool(greedy)) for total, greedy in found]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
            raise NotImplementedError

    return Replaying()


def _parted(
    history: list[dict[str, str]], add_generation_prompt: bool
) -> tuple[list[dict[str, str]], str]:
    """Part a conversation from what begins the assistant's turn."""
    if add_generation_prompt or not history or history[-1]["role"] != "assistant":
        return history, ""
    return history[:-1], str(history[-1]["content"])


Render = Callable[[list[dict[str, str]], str], str]


def renderer(template: Template) -> Render:
    """Make the function that shows a conversation as the model saw it.

    A template is used only if it gives back what the backend made of a conversation; otherwise
    prompts are shown as JSON, as lm-eval shows those of chat servers.
    """

    def with_system(turns: list[dict[str, str]]) -> list[dict[str, str]]:
        first = [{"role": "system", "content": template.system}] if template.system else []
        return [*first, *turns]

    def as_json(turns: list[dict[str, str]], prefill: str) -> str:
        begun = [{"role": "assistant", "content": prefill}] if prefill else []
        return json.dumps([*with_system(turns), *begun], ensure_ascii=False)

    tokens = _special_tokens(template) if template.source else None
    if tokens is None:
        return as_json
    known = tokens

    def render(turns: list[dict[str, str]], prefill: str) -> str:
        text = _render(template.source, with_system(turns), {**template.kwargs, **known})
        return text + prefill

    return render


def _render(source: str, turns: list[dict[str, str]], values: dict[str, Any]) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered = render_jinja_template(
        conversations=[turns], chat_template=source, add_generation_prompt=True, **values
    )
    # The texts, and behind them spans that nobody asked for.
    return str(rendered[0][0])


def _special_tokens(template: Template) -> dict[str, str] | None:
    """Find the special tokens with which the template gives what the backend gave, or None."""
    import jinja2

    for words in _ONE_TURN:
        turn = [{"role": "user", "content": words}]
        try:
            marked = _render(template.source, turn, {"bos_token": _BOS, "eos_token": _EOS})
        except (jinja2.TemplateError, TypeError):
            return None
        pattern = re.escape(marked)
        for name, mark in (("bos", _BOS), ("eos", _EOS)):
            pattern = pattern.replace(re.escape(mark), f"(?P<{name}>.*?)", 1)
            pattern = pattern.replace(re.escape(mark), f"(?P={name})")
        match = re.fullmatch(pattern, template.rendered, re.DOTALL)
        if match is not None:
            return {f"{name}_token": value for name, value in match.groupdict().items()}
    return None
