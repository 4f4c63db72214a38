"""Toy lm-eval tasks over files, models that know or do not know the answers, workers in-process."""

import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tseval.errors import RequestFailed, TsevalError
from tseval.formats import TemplateView
from tseval.requests import ScoringRequest
from tseval.scripts import Call
from tseval.testing import ScriptedBackend
from tseval.types import LogLikelihood, Message

# A chat template of our own, with a special token that only the tokenizer would know.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
BOS = "<s>"
VIEW = TemplateView(
    rendered=f"{BOS}<|user|>Hello.\n<|assistant|>",
    rendered_off=f"{BOS}<|user|>Hello.\n<|assistant|>",
    template=TEMPLATE,
)
THINKING_VIEW = msgspec.structs.replace(
    VIEW,
    template=TEMPLATE + "{# </think> #}",
    single_tokens=frozenset({"<think>", "</think>"}),
)
CITIES = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Peru": "Lima", "Japan": "Tokyo"}


class InProcess:
    """Stands in for worker processes: the same calls on the same plain values, without a start."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def call(self, function: str, arguments: Sequence[Any], *, seconds: float) -> Any:
        self.calls.append(function.partition(":")[2])
        module, _, name = function.partition(":")
        given = msgspec.json.decode(msgspec.json.encode(list(arguments)))
        try:
            value = getattr(importlib.import_module(module), name)(*given)
        except TsevalError as error:
            raise RequestFailed(f"{function}: {error}") from error
        except Exception as error:
            raise RequestFailed(f"{function}: {type(error).__name__}: {error}") from error
        return msgspec.json.decode(msgspec.json.encode(value))

    async def close(self) -> None:
        """Nothing to close."""


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sums(first: int, count: int) -> list[dict[str, Any]]:
    """Rows of a toy reasoning task."""
    return [
        {"question": f"{n} + {n * n}?", "answer": f"Adding. #### {n + n * n}"}
        for n in range(first, first + count)
    ]


def sums_task(folder: Path, count: int = 12, **more: Any) -> str:
    """Write a few-shot generate_until task like gsm8k; return its benchmark name."""
    test = write_rows(folder / "sums_test.jsonl", sums(2, count))
    train = write_rows(folder / "sums_train.jsonl", sums(100, 20))
    task = {
        "task": "toy_sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(test), "train": str(train)}},
        "output_type": "generate_until",
        "training_split": "train",
        "fewshot_split": "train",
        "test_split": "test",
        "num_fewshot": 2,
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["Question:"], "do_sample": False, "max_gen_toks": 60},
        "metric_list": [
            {
                "metric": "exact_match",
                "aggregation": "mean",
                "higher_is_better": True,
                "regexes_to_ignore": ["(?s).*#### "],
            }
        ],
        "filter_list": [
            {
                "name": "strict-match",
                "filter": [
                    {"function": "regex", "regex_pattern": r"#### (\-?[0-9]+)"},
                    {"function": "take_first"},
                ],
            },
            {
                "name": "flexible-extract",
                "filter": [
                    {"function": "regex", "group_select": -1, "regex_pattern": r"(-?[0-9]+)"},
                    {"function": "take_first"},
                ],
            },
        ],
        "metadata": {"version": 3.0},
        **more,
    }
    return write_task(folder / f"{task['task']}.yaml", task)


def choice_task(folder: Path, name: str = "toy_choice", count: int = 5, **more: Any) -> str:
    """Write a multiple-choice task; return its benchmark name."""
    cities = list(CITIES.values())
    rows = [
        {"country": country, "cities": cities, "label": cities.index(city)}
        for country, city in list(CITIES.items())[:count]
    ]
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(write_rows(folder / f"{name}.rows.jsonl", rows))}
        },
        "output_type": "multiple_choice",
        "test_split": "test",
        "description": "Capitals.\n\n",
        "doc_to_text": "What is the capital of {{country}}?",
        "doc_to_choice": "{{cities}}",
        "doc_to_target": "{{label}}",
        "metric_list": [
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
        ],
        "metadata": {"version": 1.0},
        **more,
    }
    return write_task(folder / f"{name}.yaml", task)


def write_task(path: Path, task: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(task), encoding="utf-8")
    return f"lm-eval/{path}"


def add(call: Call) -> str:
    """Give the right answer to a sum, and go on where a stop string ends it."""
    first, second = (int(word.rstrip("?")) for word in call.prompt.split()[1:4:2])
    return f"Adding. #### {first + second}\n\nQuestion: 1 + 1?\nAnswer: #### 2"


# What stock models answer to the first sum.
ADDED = "Adding. #### 6"


def add_wrongly(call: Call) -> str:
    return "It is #### -7"


class Chooser(ScriptedBackend):
    """A model that finds what its script says the most probable of all continuations."""

    async def loglikelihood(self, request: ScoringRequest) -> LogLikelihood:
        self.calls += 1
        call = Call(messages=request.messages, prefix="", seed=0)
        said = self._script(call)
        right = said == request.continuation
        return LogLikelihood(total=-0.5 if right else -9.0, greedy=right, tokens=1)


def capital(call: Call) -> str:
    country = call.prompt.split()[-1].rstrip("?")
    return CITIES[country]


def rendered(messages: Sequence[Message | dict[str, str]]) -> str:
    """Render a conversation by the template above, as a stock model would."""
    from jinja2 import Environment

    turns = [m if isinstance(m, dict) else msgspec.to_builtins(m) for m in messages]
    template = Environment(trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE)
    return template.render(messages=turns, add_generation_prompt=True, bos_token=BOS)


def stock_lm(answer: Callable[[str], Any]) -> Any:
    """Make a model for lm-eval's own runner; ``answer`` says what it gives for a prompt."""
    from lm_eval.api.model import LM

    class Stock(LM):  # type: ignore[misc]
        tokenizer_name = "toy"

        def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
            if add_generation_prompt or chat_history[-1]["role"] != "assistant":
                return rendered(chat_history)
            # As transformers continues a final message.
            return rendered(chat_history[:-1]) + str(chat_history[-1]["content"])

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return [answer(request.args[0]) for request in requests]

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return [answer(request.args) for request in requests]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
            raise NotImplementedError

    return Stock()


def add_or_name(call: Call) -> str:
    """Do sums; name a city where one is asked for."""
    return capital(call) if "capital" in call.prompt else add(call)
