"""What holds for agreement, corrected rates and draws of labels, whatever the counts."""

import csv
import io
import unicodedata

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tseval.errors import StatisticsError
from tseval.judgement.labelling import _Unit as Unit
from tseval.judgement.labelling import choose
from tseval.judgement.sheets import for_csv
from tseval.report.judges import Page, Section, markdown_page
from tseval.stats_agreement import cohen, fleiss, krippendorff
from tseval.stats_judge import Counts, prediction_powered, rogan_gladen
from tseval.types import Estimate

pairs = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=60)
prompt = st.integers(1, 4).flatmap(lambda k: st.tuples(st.integers(0, k), st.just(k)))
prompts = st.lists(prompt, min_size=1, max_size=40)
shares = st.integers(60, 200).flatmap(lambda n: st.tuples(st.integers(int(0.7 * n), n), st.just(n)))


def assert_well_formed(estimate: Estimate, lowest: float) -> None:
    assert lowest <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.low < estimate.high


def counts(cells: list[tuple[int, int]]) -> Counts:
    return Counts(*map(list, zip(*cells, strict=True)))


def singles(share: tuple[int, int]) -> Counts:
    return Counts([1] * share[0] + [0] * (share[1] - share[0]), [1] * share[1])


@given(pairs, st.integers(1, 10))
def test_agreement_lies_within_its_interval_and_is_the_same_from_either_side(rows, size):
    first, second = (np.array(each) for each in zip(*rows, strict=True))
    clusters = np.arange(len(rows)) // size
    try:
        one, other = cohen(first, second, clusters), cohen(second, first, clusters)
    except StatisticsError:
        assume(False)
    assert_well_formed(one.estimate, -1)
    for name in ("value", "low", "high"):
        assert getattr(one.estimate, name) == pytest.approx(getattr(other.estimate, name))


@given(pairs)
def test_names_of_labels_do_not_matter(rows):
    table = np.array(rows)
    renamed = np.array([4, 0, 2])[table]
    for measure in (fleiss, krippendorff):
        try:
            here = measure(table).estimate
        except StatisticsError:
            with pytest.raises(StatisticsError):
                measure(renamed)
            continue
        there = measure(renamed).estimate
        assert there.value == pytest.approx(here.value)
        assert there.low == pytest.approx(here.low)


@given(prompts, shares, shares)
def test_corrected_rates_lie_within_their_intervals_within_0_and_1(cells, sensitivity, specificity):
    found = rogan_gladen(counts(cells), singles(sensitivity), singles(specificity), draws=500)
    assert_well_formed(found.rate, 0)
    assert_well_formed(found.youden, -1)


@given(st.integers(0, 100), shares, shares)
def test_more_hits_never_lower_a_corrected_rate(hits, sensitivity, specificity):
    few, many = (
        rogan_gladen(singles((n, 101)), singles(sensitivity), singles(specificity), draws=100)
        for n in (hits, hits + 1)
    )
    assert few.rate.value <= many.rate.value


@given(st.integers(0, 2**32), st.integers(10, 60), st.floats(0, 1), st.floats(0, 1))
def test_powered_rates_lie_within_their_intervals_and_ignore_order(seed, m, rate, errors):
    rng = np.random.default_rng(seed)
    n = 80
    truth = rng.random(n) < rate
    said = np.where(rng.random(n) < errors, ~truth, truth).astype(float)
    chance = rng.uniform(0.05, 1, n)
    human = np.where(np.arange(n) < m, truth, np.nan)
    clusters = np.arange(n) // 2 if m >= 20 else np.arange(n)
    known = rng.random(n) < 0.1
    assume((~np.isnan(human) & ~known).sum() >= 20)
    here = prediction_powered(said, human, chance, clusters, known=known)
    assert_well_formed(here.rate, 0)
    assert 0 <= here.weight <= 1
    order = rng.permutation(n)
    there = prediction_powered(
        *(each[order] for each in (said, human, chance, clusters)), known=known[order]
    )
    assert there.rate.value == pytest.approx(here.rate.value)
    assert there.rate.high == pytest.approx(here.rate.high)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=80),
    st.integers(1, 100),
    st.integers(0, 2**32),
    st.sampled_from(["random", "disagreement"]),
)
def test_exactly_as_many_are_chosen_as_asked_for_each_with_a_chance(weights, n, seed, by):
    assume(by == "random" or any(weights))
    units = [Unit(f"{i:016x}", weight) for i, weight in enumerate(weights)]
    chosen = choose(units, n, by=by, seed=seed)
    assert len(chosen) == min(n, len(units))
    assert all(0 < probability <= 1 for probability in chosen.values())


@given(st.text())
def test_a_cell_survives_csv_and_starts_no_formula(text):
    file = io.StringIO(newline="")
    csv.writer(file).writerow([for_csv(text)])
    file.seek(0)
    [[cell]] = csv.reader(file)
    assert cell == for_csv(text)
    assert not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "|", "%"))
    shown = cell[len(cell) - len(text) :]
    for written, seen in zip(text, shown, strict=True):
        hidden = unicodedata.category(written) in ("Cc", "Cf", "Cs", "Co")
        assert seen == written or (hidden and written not in "\n\r\t")
        assert seen in "\n\r\t" or unicodedata.category(seen) not in ("Cc", "Cf", "Cs")


@given(st.text())
def test_what_a_model_wrote_stays_in_its_cell(text):
    page = Page(text, [Section("", ("a", "b"), [(text, "x")])], [text])
    rows = [line for line in markdown_page(page).splitlines() if line.startswith("|")]
    assert len(rows) == 3
    assert "<" not in rows[2].replace("\\<", "")
