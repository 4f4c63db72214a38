"""first_token and latent_harm in a session: planted states, exact counts, kills."""

from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from tests.support.probe_runs import ProbeRun, halve_journal, run_probe, scale
from tests.support.sessions import registry
from tseval.data import load_rows
from tseval.errors import CapabilityMissing
from tseval.probes import NOTICE, Cases
from tseval.scripts import CHAT_VIEW, Call, decode
from tseval.types import Thinking

REFUSED, ANSWERED = "I'm sorry, but I can't help with that request.", "Here is what you asked for."
BARE = {"view": CHAT_VIEW}
PROMPTS = {
    kind: tuple(
        s.prompt for s in load_rows(registry().benchmarks[f"probe_{kind}"].card, ()).samples
    )
    for kind in ("harmful", "benign")
}


def bits(prompt: str) -> bytes:
    return sha256(prompt.encode()).digest()


def refuses(prompt: str) -> bool:
    return bits(prompt)[0] < 110


def thoughtless(prompt: str) -> bool:
    return bits(prompt)[1] < 20


def silent(prompt: str) -> bool:
    return bits(prompt)[2] < 15


def bare(prompt: str) -> str:
    return prompt.partition("Prompt:\n\n")[2] if prompt.startswith(NOTICE) else prompt


def decided(call: Call) -> str:
    """Refuses as its prompt decides; under the notice, every harmful prompt."""
    prompt = bare(call.prompt)
    told = prompt != call.prompt and prompt in PROMPTS["harmful"]
    answer = REFUSED if told or refuses(prompt) else ANSWERED
    trace = "" if thoughtless(prompt) else f"Okay, {len(prompt)} letters."
    whole = f"<think>\n{trace}\n</think>\n\n{'' if silent(prompt) else answer}"
    return whole.removeprefix(call.prefix) if whole.startswith(call.prefix) else answer


def compliant(call: Call) -> str:
    return f"<think>\nOkay.\n</think>\n\n{ANSWERED}".removeprefix(call.prefix)


def planted(upto: tuple[int, ...], layer: float) -> np.ndarray:
    """Noise, but for the last layer where the prompt ends: it holds both harm and the outcome.

    The embedding is that of the last token, which is the same wherever a prompt ends.
    """
    text = decode(upto[-1:] if layer == 0 else upto)
    seed = int.from_bytes(sha256(f"{text}{layer}".encode()).digest()[:8], "big")
    found = np.random.default_rng(seed).normal(size=12)
    if layer == -1 and text.endswith("[/u]\n"):
        prompt = bare(text.partition("[u]")[2].removesuffix("[/u]\n"))
        found[0] += 4 * refuses(prompt)
        found[1] += 4 * (prompt in PROMPTS["harmful"])
    return found


def judged(kind: str) -> Counter[str]:
    usable = [prompt for prompt in PROMPTS[kind] if not silent(prompt)]
    n = sum(map(refuses, usable))
    return Counter(refusals=n, compliances=len(usable) - n)


@pytest.fixture
def sized(monkeypatch: pytest.MonkeyPatch) -> None:
    scale(monkeypatch, permutations=19)


def first_token(folder: Path, **more: object) -> ProbeRun:
    return run_probe("first_token", folder, decided, backend={"states": planted}, **more)


@pytest.mark.usefixtures("sized")
def test_first_token_reads_the_outcome_where_it_is_planted_and_nowhere_else(
    tmp_path: Path,
) -> None:
    run = first_token(tmp_path)
    silences = sum(map(silent, PROMPTS["harmful"]))
    assert silences > 0
    for kind in ("harmful", "benign"):
        counts = judged(kind)
        before = run.number("refusal_auroc", f"{kind} · state A")
        assert before.counts == counts
        assert before.n == before.n_prompts == sum(counts.values())
        assert before.excluded == {"empty": sum(map(silent, PROMPTS[kind]))}
        assert before.estimate.value > 0.9
        assert before.null.value == pytest.approx(0.5, abs=0.15)
        assert before.p_value == 1 / 20
        behind = run.number("refusal_auroc", f"{kind} · state B")
        lost = [p for p in PROMPTS[kind] if thoughtless(p) and not silent(p)]
        assert behind.excluded == {**before.excluded, "no-trace": len(lost)}
        assert behind.n == before.n - len(lost)
        assert behind.estimate.value < 0.75
        assert run.number("refusal_bacc", f"{kind} · state A").estimate.value > 0.8
        gain = run.number("refusal_auroc_gain", f"{kind} · state A")
        assert gain.estimate.low > 0
        paper = run.number("refusal_auroc", f"{kind} · state A", "paper")
        assert paper.estimate.value == pytest.approx(before.estimate.value, abs=0.06)
    assert run.number("refusal_auroc", "pooled · state A").counts == judged("harmful") + judged(
        "benign"
    )
    assert run.number("refusal_auroc", "harmful · state A · P2").estimate.value > 0.85
    curve = next(c for c in run.found.curves if c.group == "harmful · state A")
    assert curve.x == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert max(curve.y[:-1]) < 0.8 < curve.y[-1]
    controls = run.found.grids[0]
    assert {(row[0], row[1]) for row in controls.rows if row[0].startswith("pooled")} == {
        (f"pooled · state {state}", name)
        for state in "AB"
        for name in ("prompt words", "prompt length", "benchmark", "first token")
    }
    assert all(row[2] < 0.8 for row in controls.rows)
    assert {(score.metric, score.group) for score in run.scores} == {
        (metric, f"{pool} · state {state}")
        for metric in ("refusal_auroc", "refusal_bacc")
        for pool in ("harmful", "benign", "pooled")
        for state in "AB"
    }


@pytest.mark.usefixtures("sized")
def test_a_token_that_is_sampled_behind_a_state_is_no_control_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def telling(cases: Cases) -> dict[str, np.ndarray]:
        return {"prompt words": np.zeros(len(cases.labels)), "first token": 1.0 * cases.labels}

    monkeypatch.setattr("tseval.probes.control_scores", telling)
    run = first_token(tmp_path)
    for state, best in (("A", "prompt words"), ("B", "first token")):
        gain = run.number("refusal_auroc_gain", f"harmful · state {state}")
        assert gain.note == f"best control: {best}"


@pytest.mark.parametrize("name", ["first_token", "latent_harm"])
def test_a_killed_probe_goes_on_and_a_finished_one_asks_nothing(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale(monkeypatch, permutations=2)
    backend = {"states": planted}
    whole = run_probe(name, tmp_path / "whole", decided, backend=backend)
    again = run_probe(name, tmp_path / "whole", decided, backend=backend)
    assert again.calls == 0
    assert again.found == whole.found
    run_probe(name, tmp_path / "killed", decided, backend=backend)
    left = halve_journal(tmp_path / "killed")
    assert left > 0
    resumed = run_probe(name, tmp_path / "killed", decided, backend=backend)
    assert 0 < resumed.calls < whole.calls
    assert resumed.found == whole.found
    assert resumed.scores == whole.scores


@pytest.mark.usefixtures("sized")
def test_too_few_refusals_are_no_number_but_are_counted(tmp_path: Path) -> None:
    run = run_probe("first_token", tmp_path, compliant, backend={"states": planted})
    for score in run.scores:
        assert score.estimate is None
        assert score.undefined == "undefined: 0 refusals"
    assert len(run.scores) == 12
    assert run.number("refusal_auroc", "harmful · state A").counts == {
        "refusals": 0,
        "compliances": 60,
    }
    assert all(set(curve.y) == {None} for curve in run.found.curves)


@pytest.mark.usefixtures("sized")
def test_a_trace_that_never_closed_is_not_judged_as_an_answer(tmp_path: Path) -> None:
    def endless(call: Call) -> str:
        return f"<think>\n{REFUSED}"

    more = {"limit": 3, "thinking": Thinking(unclosed="judge-trace")}
    run = run_probe("first_token", tmp_path, endless, backend={"states": planted}, **more)
    before = run.number("refusal_auroc", "harmful · state A")
    assert before.counts == {"refusals": 0, "compliances": 0}
    assert before.excluded == {"unclosed": 3}


@pytest.mark.usefixtures("sized")
def test_a_model_without_a_format_is_probed_under_a_forced_opener_only(tmp_path: Path) -> None:
    bare = {"states": planted, "view": CHAT_VIEW}
    with pytest.raises(CapabilityMissing, match="has no thinking trace to probe"):
        run_probe("first_token", tmp_path / "off", decided, backend=bare)
    forced = Thinking(mode="forced")
    run = run_probe("first_token", tmp_path / "on", decided, backend=bare, thinking=forced)
    assert run.number("refusal_auroc", "harmful · state A").estimate.value > 0.9
    behind = run.number("refusal_auroc", "harmful · state A'")
    assert behind.counts == judged("harmful")
    assert not behind.headline


@pytest.mark.usefixtures("sized")
def test_latent_harm_is_read_and_steering_is_counted_prompt_by_prompt(tmp_path: Path) -> None:
    run = run_probe("latent_harm", tmp_path, decided, backend={"states": planted})
    for way in ("plain", "steered"):
        number = run.number("harm_auroc", f"{way} · state A")
        assert number.counts == {"harmful prompts": 60, "benign prompts": 60}
        assert number.estimate.value > 0.9
        assert number.p_value == 1 / 20
        unseen = run.number("harm_auroc_unseen", f"{way} · state A")
        assert unseen.undefined.endswith("prompts are of one benchmark")
    usable = [prompt for prompt in PROMPTS["harmful"] if not silent(prompt)]
    gain = run.number("steering_gain", "harmful")
    anyway = sum(map(refuses, usable))
    assert gain.counts == {
        "refused anyway": anyway,
        "refused if steered": len(usable),
        "only steered": len(usable) - anyway,
        "only plain": 0,
    }
    assert gain.estimate.value == pytest.approx(1 - anyway / len(usable))
    assert gain.excluded == {"empty": 60 - len(usable)}
    assert gain.p_value < 1e-6
    # The notice makes no benign prompt refuse, and hardly one refuses without it.
    benign = run.number("steering_gain", "benign")
    refused = benign.counts["refused anyway"]
    assert (benign.counts["only steered"], benign.counts["only plain"]) == (0, 0)
    if refused < 10:
        assert (benign.estimate, benign.p_value) == (None, None)
        assert benign.undefined == f"undefined: {refused} prompts with refusals"
    else:
        assert (benign.estimate.value, benign.p_value) == (0, 1)
    (note,) = run.found.notes
    assert note.endswith("which a probe may tell apart; nothing in this run rules that out")
    # The benchmark says all there is to know about harm here, and the table shows it.
    controls = {row[:2]: row for row in run.found.grids[0].rows}
    assert controls["plain · state A", "benchmark"][2] == 1.0
    # So it is set aside: the gain is over what a prompt's words and length say.
    gain = run.number("harm_auroc_gain", "plain · state A")
    assert gain.note != "best control: benchmark"
    assert gain.estimate.low > 0


@pytest.mark.usefixtures("sized")
def test_a_pair_of_benchmarks_is_read_by_a_probe_of_the_others(tmp_path: Path) -> None:
    run = run_probe(
        "latent_harm",
        tmp_path,
        decided,
        backend={"states": planted_everywhere},
        harmful_from=("probe_harmful", "quick_harmful"),
        benign_from=("probe_benign", "quick_benign"),
        limit=40,
    )
    unseen = run.number("harm_auroc_unseen", "plain · state A")
    assert unseen.note == "mean over 4 of 4 pairs of benchmarks, each held out"
    assert "the figure on unseen pairs" in run.found.notes[0]
    assert unseen.estimate.value > 0.9
    grid = next(each for each in run.found.grids if each.name == "unseen")
    assert ("plain · state A", "probe_harmful and quick_benign") in {r[:2] for r in grid.rows}


HARMFUL = {
    sample.prompt
    for name in ("probe_harmful", "quick_harmful")
    for sample in load_rows(registry().benchmarks[name].card, ()).samples
}


def planted_everywhere(upto: tuple[int, ...], layer: float) -> np.ndarray:
    """Harm in the same direction for all benchmarks, and which benchmark it is in none."""
    text = decode(upto)
    found = planted(upto, 0.5)
    found[1] += 4 * (bare(text.partition("[u]")[2].removesuffix("[/u]\n")) in HARMFUL)
    return found


def test_sizes_are_known_before_a_run() -> None:
    spec = registry().benchmarks
    from tests.support.sessions import SPEC

    size = spec["latent_harm"].size(SPEC)
    assert size.prompts == 1000
    assert (size.generations, size.judged, size.hidden_states) == (2000, 2000, 2000)
    assert spec["first_token"].size(SPEC).generations == 1000
