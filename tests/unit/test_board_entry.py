"""What an entry says of the model that was measured."""

import pytest

from tseval.leaderboard.entry import _ended, _subject_fields
from tseval.requests import ModelSpec, Subject
from tseval.runfolder import Leg, Manifest, Scorecard
from tseval.spec import RunSpec


def fields(called: str, identity: dict[str, str], **model: str) -> dict[str, object]:
    spec = RunSpec(model=ModelSpec(backend="hf", **model), benchmarks=())
    leg = Leg(started="2026-01-31T10:00:00+00:00", execution={"dtype": "x", "url": "http://a.b/v1"})
    subject = Subject(name=called, identity=identity)
    return _subject_fields(
        Manifest(spec=spec, spec_hash="", legs=[leg], versions={"tseval": "1", "torch": "2"}),
        Scorecard(subject=subject, preset="default", seed=3, scores=[], protocols={}),
    )


def test_a_model_of_the_hub_is_named_with_its_commit() -> None:
    identity = {"model": "org/m", "commit": "abc", "tokenizer": "t"}
    found = fields("org/m@main", identity, name="org/m", revision="main")
    assert (found["model"], found["revision"], found["adapter"]) == ("org/m@main", "abc", "")
    assert found["identity"] == identity
    assert found["seed"] == 3


def test_base_and_adapter_are_told_apart() -> None:
    identity = {"base/model": "org/m", "base/commit": "abc", "adapter/a.safetensors": "sha256:1"}
    named = fields("org/m:lora", identity, name="org/m", adapter="here/lora")
    assert (named["model"], named["adapter"], named["revision"]) == ("org/m", "lora", "abc")
    alone = fields("lora", identity, name="here/lora")
    assert (alone["model"], alone["adapter"]) == ("org/m", "lora")
    local = fields("lora", {"base/w": "sha256:2", "adapter/a": "sha256:1"}, name="here/lora")
    assert (local["model"], local["adapter"]) == ("lora", "lora")


def test_where_a_server_stands_is_left_out() -> None:
    identity = {"server": "http://10.0.0.5:8000/v1", "model": "m", "canary": "c"}
    found = fields("m", identity, name="m")
    assert found["identity"] == {"model": "m", "canary": "c"}
    tagged = fields("m:8b", identity, name="m", adapter="8b")
    assert (tagged["model"], tagged["adapter"]) == ("m:8b", "")
    assert found["execution"] == {"torch": "2", "dtype": "x"}


@pytest.mark.parametrize(
    ("started", "seconds", "day"),
    [
        ("2026-01-31T23:59:00+00:00", 30, "2026-01-31"),
        ("2026-01-31T23:59:00+00:00", 90, "2026-02-01"),
        ("2026-01-31T23:30:00-02:00", 0, "2026-02-01"),
        ("2026-01-31T10:00:00", 3 * 86400, "2026-02-03"),
    ],
)
def test_the_date_is_the_day_on_which_the_last_leg_ended(
    started: str, seconds: float, day: str
) -> None:
    spec = RunSpec(model=ModelSpec(backend="hf"), benchmarks=())
    legs = [Leg(started="2026-01-01T10:00:00+00:00"), Leg(started=started, seconds=seconds)]
    assert _ended(Manifest(spec=spec, spec_hash="", legs=legs)) == day
    assert _ended(Manifest(spec=spec, spec_hash="")) == ""
