"""How an answer to an lm-eval task is drawn, and where it ends."""

from typing import Any

import pytest
from msgspec.structs import replace

from tests.support.sessions import SPEC
from tseval.lm_eval_tasks.decoding import cut, sampling_of, stops_of
from tseval.types import Sampling

OWN = Sampling(temperature=0.6, top_p=0.95, top_k=20, answer_tokens=1024)
GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0}


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({}, {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "answer_tokens": 256}),
        ({"do_sample": False}, {**GREEDY, "answer_tokens": 256}),
        ({"temperature": 0.0}, {**GREEDY, "answer_tokens": 256}),
        # What Hugging Face's generate does too: not sampling outweighs a temperature.
        ({"do_sample": False, "temperature": 0.6}, {**GREEDY, "answer_tokens": 256}),
        (
            {"do_sample": True, "temperature": 0.2, "top_p": 0.9, "max_gen_toks": 2048},
            {"temperature": 0.2, "top_p": 0.9, "top_k": 0, "answer_tokens": 2048},
        ),
        ({"do_sample": True}, {"temperature": 0.6, "top_p": 0.95, "top_k": 20}),
        ({"max_tokens": 3, "max_gen_toks": 7}, {"answer_tokens": 7}),
        ({"max_new_tokens": 9}, {"answer_tokens": 9}),
    ],
)
def test_the_task_s_values_count_where_it_has_any(
    kwargs: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = sampling_of(kwargs, SPEC, OWN)
    assert {name: getattr(found, name) for name in expected} == expected


def test_the_run_s_answer_budget_outweighs_the_task_s() -> None:
    spec = replace(SPEC, answer_tokens_fixed=True)
    assert sampling_of({"max_gen_toks": 5}, spec, OWN).answer_tokens == 1024


@pytest.mark.parametrize("flag", ["temperature", "top-p", "top-k"])
def test_a_flag_that_overrides_the_preset_outweighs_the_task(flag: str) -> None:
    spec = replace(SPEC, preset=f"default+{flag}")
    assert sampling_of({"do_sample": False}, spec, OWN) == replace(OWN, answer_tokens=256)


def test_under_the_recommended_protocol_the_model_s_makers_decide() -> None:
    spec = replace(SPEC, decoding="recommended")
    assert sampling_of({"do_sample": False}, spec, OWN) == replace(OWN, answer_tokens=256)


def test_stop_strings_may_be_one_or_many_and_empty_ones_stop_nothing() -> None:
    assert stops_of({"until": "\n\n"}) == ("\n\n",)
    assert stops_of({"until": ["Q:", "", "</s>"]}) == ("Q:", "</s>")
    assert stops_of({}) == ()


def test_an_answer_ends_at_the_first_stop_string_whichever_it_is() -> None:
    assert cut("one </s> two Q: three", ("Q:", "</s>")) == "one "
    assert cut("nothing to stop at", ("Q:",)) == "nothing to stop at"
    assert cut("Q: at once", ("Q:",)) == ""
