"""valley and prefill_decision in a session: planted states, exact counts, kills, no numbers."""

from collections import Counter
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.probe_runs import ProbeRun, halve_journal, run_probe, scale
from tests.support.sessions import registry
from tseval.data import load_rows
from tseval.errors import CapabilityMissing
from tseval.scripts import CHAT_VIEW, Call, decode
from tseval.types import Thinking

REFUSED, ANSWERED = "I'm sorry, but I can't help with that request.", "Here is what you asked for."
PROMPTS = {
    kind: tuple(
        s.prompt for s in load_rows(registry().benchmarks[f"probe_{kind}"].card, ()).samples
    )
    for kind in ("harmful", "benign")
}
# Bytes of the words that every trace begins and ends with.
WORDS = 18


def bits(prompt: str) -> bytes:
    return sha256(prompt.encode()).digest()


def refuses(prompt: str) -> bool:
    return bits(prompt)[0] < 110


def silent(prompt: str) -> bool:
    return bits(prompt)[2] < 15


def curt(prompt: str) -> bool:
    return bits(prompt)[3] < 10


def trace_of(prompt: str) -> str:
    return "ok" if curt(prompt) else "a" * WORDS + "m" * (80 + len(prompt)) + "z" * WORDS


def decided(call: Call) -> str:
    answer = "" if silent(call.prompt) else REFUSED if refuses(call.prompt) else ANSWERED
    whole = f"<think>{trace_of(call.prompt)}</think>{answer}"
    return whole.removeprefix(call.prefix) if whole.startswith(call.prefix) else answer


def brief(call: Call) -> str:
    """The same with traces of fewer tokens than places."""
    return decided(call).replace("m" * 80, "")


def compliant(call: Call) -> str:
    return f"<think>{'m' * 120}</think>{ANSWERED}".removeprefix(call.prefix)


def planted(upto: tuple[int, ...], layer: float) -> np.ndarray:
    """Noise, and the outcome in the last layer: at both ends of traces, late in prompts."""
    text = decode(upto)
    digest = sha256(f"{text}{layer}".encode()).digest()
    found = np.frombuffer(digest[:12], np.uint16) / 2**14 - 2
    asked = text.partition("[u]")[2].partition("[/u]")[0]
    ended = "[/u]" in text
    trace = text.partition("<think>")[2]
    if trace:
        tells = trace[-1] in "az"
    else:
        # Known as soon as the last third of a prompt is read, and forgotten in the tail.
        tells = not ended and late(asked)
        asked = beginning_of(asked)
    if tells and layer == -1:
        found[0] += 5 * refuses(asked)
    return found


STARTS = {p[: 2 * len(p) // 3]: p for kind in PROMPTS for p in PROMPTS[kind]}


@cache
def late(text: str) -> bool:
    return bool(beginning_of(text))


@cache
def beginning_of(text: str) -> str:
    """The prompt of which this is more than two thirds, or ''."""
    told = (p for start, p in STARTS.items() if text.startswith(start) and p.startswith(text))
    return next(told, "")


def used(kind: str) -> list[str]:
    return [p for p in PROMPTS[kind] if not silent(p) and not curt(p)]


def counts(prompts: list[str]) -> Counter[str]:
    n = sum(map(refuses, prompts))
    return Counter(refusals=n, compliances=len(prompts) - n)


@pytest.fixture
def sized(monkeypatch: pytest.MonkeyPatch) -> None:
    scale(monkeypatch, permutations=19, bootstraps=100)
    # Each fit takes a millisecond, and there are thousands.
    monkeypatch.setattr("tseval.probes.valleys.FITTED_PERMUTATIONS", 3)
    monkeypatch.setattr("tseval.probes.valleys.FITTED_SUBSAMPLES", 1)


def probe(name: str, folder: Path, **more: object) -> ProbeRun:
    return run_probe(name, folder, decided, backend={"states": planted}, **more)


@pytest.mark.usefixtures("sized")
def test_the_valley_is_found_where_it_is_planted(tmp_path: Path) -> None:
    run = probe("valley", tmp_path)
    for kind in ("harmful", "benign"):
        depth = run.number("valley_depth", kind)
        assert depth.counts == counts(used(kind))
        assert depth.n == depth.n_prompts == len(used(kind))
        lost = Counter("empty" for p in PROMPTS[kind] if silent(p))
        lost.update("short-trace" for p in PROMPTS[kind] if curt(p) and not silent(p))
        assert depth.excluded == lost
        assert depth.estimate.low > 0
        assert depth.p_value < 0.05
        start, middle, end = (
            run.number("separability", f"{kind} · {name}") for name in ("start", "middle", "end")
        )
        assert start.p_value == end.p_value == 1 / 20
        assert middle.estimate.low < 0.02 < start.estimate.low
        for way in ("hopping", "pooling"):
            [curve] = [
                c
                for c in run.found.curves
                if (c.name, c.group, c.variant) == (f"norm_fisher_{way}", kind, "")
            ]
            assert len(curve.x) == len(curve.y) == len(curve.low) == len(curve.null_high) == 100
            assert min(curve.y[:3] + curve.y[-3:]) > max(curve.null_high)
            assert np.mean(np.asarray(curve.y[30:70]) > curve.null_high[30:70]) < 0.2
        [shallow] = [
            c
            for c in run.found.curves
            if (c.name, c.group) == ("norm_fisher_hopping", f"{kind} · layer 1/2")
        ]
        assert np.mean(np.asarray(shallow.y) > shallow.null_high) < 0.2
    named = {(c.name, c.variant) for c in run.found.curves}
    assert len(named) == 5 * 2 * 2
    measures = {row[1] for row in run.found.grids[0].rows}
    assert len(measures) == 5
    assert {(score.metric, score.group) for score in run.scores} == {
        ("valley_depth", "harmful"),
        ("valley_depth", "benign"),
    }


@pytest.mark.usefixtures("sized")
def test_the_outcome_is_read_from_where_it_is_planted_in_the_prompt(tmp_path: Path) -> None:
    run = probe("prefill_decision", tmp_path)
    for kind in ("harmful", "benign"):
        labelled = [p for p in PROMPTS[kind] if not silent(p)]
        start, end, behind = (
            run.number("prefill_auroc", f"{kind} · {name}")
            for name in ("prompt start", "prompt end", "template end")
        )
        assert start.counts == end.counts == counts(labelled)
        assert start.excluded == {"empty": len(PROMPTS[kind]) - len(labelled)}
        assert end.estimate.value > 0.95
        assert end.p_value == 1 / 20
        assert max(start.estimate.value, behind.estimate.value) < 0.75
        assert end.null.value == pytest.approx(0.5, abs=0.1)
        assert run.number("prefill_bacc", f"{kind} · prompt end").estimate.value > 0.85
        first = run.number("readable_from", kind)
        # Anchors stand a nineteenth apart.
        assert first.estimate.value == pytest.approx(2 / 3, abs=0.06)
        curves = {c.name: c for c in run.found.curves if c.group == kind}
        assert set(curves) == {
            f"{name}{suffix}"
            for name in ("auroc", "bacc", "norm_fisher")
            for suffix in ("", "_tail", "_published")
        }
        assert max(curves["auroc"].y[:10]) < 0.75 < 0.9 < min(curves["auroc"].y[15:])
        # "[/u]" and a newline.
        assert curves["auroc_tail"].x == (1.0, 2.0, 3.0, 4.0, 5.0)
        published = curves["auroc_published"]
        assert published.variant == "paper"
        # The first thinking token tells, the last of the prompt does not.
        assert published.y[20] > 0.9 > 0.75 > published.y[19]
    assert len(run.scores) == 6


@pytest.mark.usefixtures("sized")
@pytest.mark.parametrize("name", ["valley", "prefill_decision"])
def test_a_killed_probe_goes_on_and_a_finished_one_asks_nothing(tmp_path: Path, name: str) -> None:
    def run() -> ProbeRun:
        return run_probe(name, tmp_path, brief, backend={"states": planted}, limit=40)

    whole, again = run(), run()
    assert again.calls == 0
    assert again.found == whole.found
    # States come last: half of the records are the rollouts.
    halve_journal(tmp_path)
    assert 0 < halve_journal(tmp_path) < 80
    gone_on = run()
    assert 0 < gone_on.calls < whole.calls
    assert gone_on.found == whole.found


@pytest.mark.slow
@pytest.mark.usefixtures("sized")
@pytest.mark.parametrize(
    ("name", "layers", "places"), [("valley", 2, 70), ("prefill_decision", 1, 20)]
)
def test_what_does_not_fit_memory_is_read_again_and_gives_the_same(
    tmp_path: Path, name: str, layers: int, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tseval.benchmarks.deliberation import _places

    asked: list[range] = []
    blocks = _places.PlacedStates.blocks

    async def watched(self: Any, samples: Any) -> Any:
        async for block, held in blocks(self, samples):
            asked.append(block)
            yield block, held

    def run() -> ProbeRun:
        return run_probe(name, tmp_path, brief, backend={"states": planted}, limit=40)

    monkeypatch.setattr(_places.PlacedStates, "blocks", watched)
    whole = run()
    assert len(asked) == 1
    # Float32 of six dimensions for eighty prompts.
    held = {"held_bytes": 80 * 6 * 4 * layers * places}
    monkeypatch.setattr(_places.PlacedStates.__init__, "__kwdefaults__", held)
    again = run()
    assert again.calls == 0
    assert again.found == whole.found
    assert [len(block) for block in asked[1:-1]] == [places] * (len(asked) - 2)
    assert [place for block in asked[1:] for place in block] == list(asked[0])


@pytest.mark.usefixtures("sized")
@pytest.mark.parametrize(
    ("name", "metric", "group"),
    [
        ("valley", "valley_depth", "harmful"),
        ("prefill_decision", "prefill_auroc", "benign · prompt end"),
    ],
)
def test_without_ten_refusals_there_is_no_number(
    tmp_path: Path, name: str, metric: str, group: str
) -> None:
    run = run_probe(name, tmp_path, compliant, backend={"states": planted})
    number = run.number(metric, group)
    assert number.estimate is None
    assert number.undefined == "undefined: 0 refusals"
    assert number.counts == {"refusals": 0, "compliances": 60}


@pytest.mark.usefixtures("sized")
@pytest.mark.parametrize("name", ["valley", "prefill_decision"])
def test_a_model_without_traces_is_told_how_to_get_them(tmp_path: Path, name: str) -> None:
    with pytest.raises(CapabilityMissing, match="has no thinking trace to probe") as caught:
        run_probe(name, tmp_path, compliant, backend={"view": CHAT_VIEW})
    assert caught.value.hint == "run with --thinking forced"
    with pytest.raises(CapabilityMissing, match="has no thinking trace"):
        run_probe(name, tmp_path, compliant, thinking=Thinking(mode="off"))
