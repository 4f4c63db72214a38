"""Does the answer move where the stance of a trace does? Tests of replayed cuts.

Letters: at a point of a trace c of n labelled replays comply; a cut has a point before and a point
after a change of stance; m cuts are one family.
"""

from collections.abc import Sequence
from functools import cache
from math import comb
from typing import Literal, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tseval.stats_compare import benjamini_hochberg, holm

from .stances import Sham, Transition

Floats = NDArray[np.float64]

ALPHA = 0.05
# A rate of compliance at most so far from 0 or from 1 is locked.
LOCKED = 0.05
# Jeffreys' prior; at a probability of one half, locked is the likelier of the two.
PRIOR = 0.5
LOCKED_PROBABILITY = 0.5
# Futility is looked at once, after so many replays, and only where there are twice as many or more.
FUTILITY_AT = 25
LockedRule = Literal["pre", "both", "either"]


class Tally(NamedTuple):
    """Replays of one point: how many complied, of how many that have a label."""

    comply: int
    n: int

    @property
    def rate(self) -> float:
        """Share that complied."""
        return self.comply / self.n


class Pair(Struct, frozen=True, kw_only=True):
    """Two replayed points of a trace.

    Attributes:
        pre, post: Replays before and after.
        stopped: Whether replaying ended early, for futility.
    """

    pre: Tally
    post: Tally
    stopped: bool = False


class ReplayedCut(Struct, frozen=True, kw_only=True):
    """A transition that was replayed, with its sham.

    Attributes:
        trace: Place of its trace.
        change: The transition.
        real: Replays before and after it.
        sham: Where the sham stands; None if none was found.
        donor: Place of the trace that the sham stands in.
        null: Replays before and after the sham; None without one, or where too few have a label.
    """

    trace: int
    change: Transition
    real: Pair
    sham: Sham | None = None
    donor: int = -1
    null: Pair | None = None


def toward(pair: Pair, stance: int) -> float:
    """How far compliance moves to the side of a stance, from the first point to the second."""
    return (pair.post.rate - pair.pre.rate) * stance


def choose_cuts(prompts: Sequence[int], most: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Choose transitions to replay, spread over prompts.

    Every prompt gives one, in an order drawn by lot, before any gives a second.

    Args:
        prompts: int [transitions], the prompt of each.
        most: How many to choose at most.
        rng: Draws.

    Returns:
        Places of the chosen ones, ascending.
    """
    by_prompt: dict[int, list[int]] = {}
    for place in rng.permutation(len(prompts)):
        by_prompt.setdefault(prompts[int(place)], []).append(int(place))
    turns = max((len(places) for places in by_prompt.values()), default=0)
    order = [
        places[turn] for turn in range(turns) for places in by_prompt.values() if turn < len(places)
    ]
    return tuple(sorted(order[:most]))


def cut_p_value(pair: Pair) -> float:
    """Fisher's exact test, two-sided; 1 where replaying was stopped for futility.

    A stopped pair is tested nowhere, so stopping can only make rejections fewer.
    """
    if pair.stopped:
        return 1.0
    from scipy.stats import fisher_exact

    (a, n), (b, k) = pair.pre, pair.post
    return min(1.0, float(fisher_exact([[a, n - a], [b, k - b]]).pvalue))


class Family(Struct, frozen=True, kw_only=True):
    """The tests of all cuts of a run.

    Attributes:
        p: Fisher's p-values, float [cuts].
        holm: Adjusted so that the chance of any false rejection is bounded.
        bh: Adjusted so that the expected share of false ones among the rejections is.
    """

    p: Floats
    holm: Floats
    bh: Floats


def family_of(
    pairs: Sequence[Pair], groups: Sequence[int] | None = None, *, tests: int = 0
) -> Family:
    """Test all cuts of a run as one family.

    Args:
        pairs: The cuts.
        groups: int [cuts]; each group is a family of its own (only to reproduce published shares).
        tests: Size that a family is taken for where it has fewer cuts: those that are missing
            reject nothing. So a family has the thresholds of the one that it is held against.
    """
    p = np.array([cut_p_value(pair) for pair in pairs], dtype=float)
    own = np.zeros(len(p), dtype=int) if groups is None else np.asarray(groups)
    adjusted, discovered = np.ones_like(p), np.ones_like(p)
    for each in np.unique(own):
        inside = own == each
        size = int(inside.sum())
        whole = np.concatenate([p[inside], np.ones(max(tests - size, 0))])
        adjusted[inside] = holm(whole)[:size]
        discovered[inside] = benjamini_hochberg(whole)[:size]
    return Family(p=p, holm=adjusted, bh=discovered)


def side_probabilities(point: Tally) -> tuple[float, float]:
    """Posterior probabilities that the rate of compliance is at most 0.05, and at least 0.95.

    Beta posterior under Jeffreys' prior, Beta(1/2, 1/2).
    """
    from scipy.special import betainc

    a, b = point.comply + PRIOR, point.n - point.comply + PRIOR
    return float(betainc(a, b, LOCKED)), float(1 - betainc(a, b, 1 - LOCKED))


def is_locked(point: Tally) -> bool:
    """Whether an answer is locked: its rate of compliance is likelier at an edge than not.

    With 16 replays 0 or 16 compliances are locked, with 25 also one from an edge, with 100 up to
    four.

    Source: arXiv 2606.25013, by the raw rate (:func:`locked_as_published`).
    Differs: The posterior knows how many replays there are.
    """
    return sum(side_probabilities(point)) >= LOCKED_PROBABILITY


def locked_as_published(pair: Pair, rule: LockedRule) -> bool:
    """Whether a cut is locked by one of three definitions that the paper's sources have.

    Args:
        pair: The cut.
        rule: 'pre': the raw rate before is <= 0.05 or >= 0.95 (its figure). 'both': before and
            after (its documents). 'either': neither rate lies in [0.05, 0.95] (its analysis of
            defences, by which 0.05 itself is not locked).
    """
    rates = (pair.pre.rate, pair.post.rate)
    if rule == "either":
        return not any(LOCKED <= rate <= 1 - LOCKED for rate in rates)
    looked_at = rates[:1] if rule == "pre" else rates
    return all(rate <= LOCKED or rate >= 1 - LOCKED for rate in looked_at)


def futile(pre: Tally, post: Tally) -> bool:
    """Whether both points are locked on the same side, so that further replays show no move."""
    if not pre.n or not post.n:
        return False
    before, after = side_probabilities(pre), side_probabilities(post)
    return any(
        one >= LOCKED_PROBABILITY and other >= LOCKED_PROBABILITY
        for one, other in zip(before, after, strict=True)
    )


def first_round(replays: int) -> int:
    """How many replays are made before futility is looked at; all where there are too few."""
    return FUTILITY_AT if replays >= 2 * FUTILITY_AT else replays


@cache
def fisher_table(n: int) -> Floats:
    """Two-sided p-values of Fisher's test for all outcomes of two points with n replays each.

    Returns:
        float [n + 1, n + 1].
    """
    from scipy.special import gammaln

    counts = np.arange(n + 1)
    choose_n = gammaln(n + 1) - gammaln(counts + 1) - gammaln(n - counts + 1)
    table = np.ones((n + 1, n + 1))
    for total in range(2 * n + 1):
        a = np.arange(max(0, total - n), min(n, total) + 1)
        log = choose_n[a] + choose_n[total - a]
        chance = np.exp(log - log.max())
        chance /= chance.sum()
        # As scipy: outcomes that are as likely up to rounding count as no likelier.
        table[a, total - a] = [float(chance[chance <= each * (1 + 1e-7)].sum()) for each in chance]
    return np.minimum(table, 1.0)


def smallest_significant_move(n: int, tests: int, alpha: float = ALPHA) -> float | None:
    """Smallest observed move away from one half that is significant in the first step of Holm.

    Args:
        n: Replays at each point.
        tests: Size of the family.
        alpha: Bound on the chance of any false rejection.

    Returns:
        A difference of rates; None where no outcome would do.
    """
    half = n // 2
    moves = np.flatnonzero(fisher_table(n)[half] <= alpha / tests)
    return float(np.abs(moves - half).min() / n) if moves.size else None


def can_reject(pairs: Sequence[Pair], alpha: float = ALPHA) -> bool:
    """Whether any outcome at all is significant under Holm, with as many replays as there are.

    Args:
        pairs: The family.
        alpha: Bound on the chance of any false rejection.
    """
    # From nobody to everybody is the least likely outcome of a table with these margins.
    sizes = {(pair.pre.n, pair.post.n) for pair in pairs}
    least = [(2 if n == m else 1) / comb(n + m, n) for n, m in sizes if n and m]
    return bool(least) and min(least) <= alpha / len(pairs)


def power_sentence(n: int, tests: int) -> str:
    """Say in words how far an answer has to move for a cut to show it.

    Args:
        n: Replays at each point.
        tests: Size of the family.
    """
    size = f"{n} replays a point in a family of {tests}"
    if smallest_significant_move(n, tests) is None:
        return f"With {size} no move from one half can be shown, only larger ones."
    move = detectable_move(n, tests)
    if move is None:
        return (
            f"With {size} even a move from one half to an end is found in fewer than four of five."
        )
    return f"With {size} a move from one half is found in four of five if it is {move:.2f} or more."


def detectable_move(
    n: int, tests: int, *, power: float = 0.8, alpha: float = ALPHA
) -> float | None:
    """Smallest move away from one half that a cut shows with a given power.

    Args:
        n: Replays at each point.
        tests: Size of the family; the cut has to pass the first step of Holm.
        power: Chance that it does.
        alpha: Bound on the chance of any false rejection.

    Returns:
        A difference of rates in (0, 0.5], to a hundredth; None where even 0.5 is not found.
    """
    from scipy.special import gammaln, xlogy

    counts = np.arange(n + 1)
    choose_n = gammaln(n + 1) - gammaln(counts + 1) - gammaln(n - counts + 1)

    def binomial(rate: float) -> Floats:
        chances: Floats = np.exp(choose_n + xlogy(counts, rate) + xlogy(n - counts, 1 - rate))
        return chances

    rejected = (fisher_table(n) <= alpha / tests).astype(float)
    before = binomial(0.5) @ rejected
    for move in np.arange(1, 51) / 100:
        if float(before @ binomial(0.5 + float(move))) >= power:
            return float(move)
    return None


def sign_flip_p(differences: Sequence[float], rng: np.random.Generator, draws: int) -> float:
    """Test whether the differences of prompts have mean zero, by turning their signs at random.

    Args:
        differences: float [prompts].
        rng: Draws signs.
        draws: Number of draws.

    Returns:
        Two-sided p-value; 1 where all differences are zero.
    """
    d = np.asarray(differences, dtype=float)
    d = d[d != 0]
    if not d.size:
        return 1.0
    signs = rng.integers(0, 2, size=(draws, d.size)) * 2 - 1
    beyond = np.abs(signs @ d) >= abs(d.sum()) - 1e-12
    return float((1 + beyond.sum()) / (1 + draws))
