"""The rows of the deliberation scorecard against what the probes really hand in."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.panel_judges import Quiet
from tests.support.probe_runs import SCALE, scale
from tests.support.sessions import finish, registry
from tseval.deliberation_rows import WANTED, Wanted
from tseval.measurements import Measurement, MeasureSpec
from tseval.probes.sizes import SCALES, sizes_of
from tseval.requests import ModelSpec
from tseval.runner import run
from tseval.scripts import thinking
from tseval.spec import RunSpec
from tseval.testing import TAGS_VIEW, ScriptedBackend

# Read against a number of the same group, which is made where the row is defined.
OWN = "{group}"
ROWS = pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: wanted.key)


def measured(folder: Path, probes: Iterable[str], limit: int) -> dict[str, Measurement]:
    spec = RunSpec(
        model=ModelSpec(backend="scripted", name="thinking"),
        benchmarks=tuple(dict.fromkeys(probes)),
        judges=("refusal-rules",),
        scale=SCALE,
        limit=limit,
    )
    with pytest.MonkeyPatch.context() as patch:
        scale(patch, permutations=4, bootstraps=10, cuts=1, replays=4, commitment_answers=2)
        backend = ScriptedBackend(thinking, view=TAGS_VIEW)
        outcome = finish(run(spec, registry(), Quiet(), out=folder, backend=backend), 120)
    assert not outcome.scorecard.failed
    return {each.probe: each for each in outcome.folder.measurements()}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Measurement]:
    """What all probes of the page find of two prompts, numbers that are undefined among it."""
    folder = tmp_path_factory.mktemp("rows")
    few = measured(folder / "few", (wanted.probe for wanted in WANTED), 1)
    # Gains over a control are made of defined numbers only.
    gains = (wanted.probe for wanted in WANTED if wanted.beside[1] == OWN)
    return {**few, **measured(folder / "many", gains, 40)}


@ROWS
def test_each_row_names_a_metric_of_its_probe_and_a_group_that_it_makes(
    wanted: Wanted, found: dict[str, Measurement]
) -> None:
    assert isinstance(registry().metrics[wanted.metric], MeasureSpec)
    numbers = found[wanted.probe].numbers
    groups = {n.group for n in numbers if n.metric == wanted.metric and not n.variant}
    mine = {group for group in groups if re.fullmatch(wanted.groups, group)}
    assert mine, f"{wanted.key}: no group of {sorted(groups)} is {wanted.groups!r}"


@ROWS
def test_what_a_row_is_read_against_is_made_for_each_of_its_groups(
    wanted: Wanted, found: dict[str, Measurement]
) -> None:
    metric, pattern = wanted.beside
    assert not metric or isinstance(registry().metrics[metric], MeasureSpec)
    made = [n for n in found[wanted.probe].numbers if not n.variant]
    mine = {
        n.group
        for n in made
        if n.metric == wanted.metric and (n.estimate or wanted.beside[1] != OWN)
    }
    assert mine
    for group in mine if metric else ():
        if re.fullmatch(wanted.groups, group):
            wished = pattern.format(group=re.escape(group))
            there = [n.group for n in made if n.metric == metric]
            assert any(re.fullmatch(wished, each) for each in there), (wished, there)


@pytest.mark.parametrize("name", SCALES)
def test_every_scale_has_exactly_the_one_early_cut_that_the_page_shows(name: str) -> None:
    (settled,) = (wanted for wanted in WANTED if wanted.key == "settled")
    cuts = sizes_of(name).commitment_cuts
    assert len([cut for cut in cuts if re.fullmatch(settled.groups, f"all · {cut}%")]) == 1
