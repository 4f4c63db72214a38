"""The rows of the deliberation scorecard: which number of which probe each is, and its rule."""

from typing import NamedTuple

from . import readings


class Wanted(NamedTuple):
    """Where a row of the page comes from.

    Attributes:
        key, title: Of the row.
        probe: The benchmark.
        metric: Of its numbers.
        groups: Pattern that a whole group matches; every group that does makes a row.
        rule: Writes the sentence.
        axis: As on the finding.
        beside: Metric and pattern of the number that it is read against ('{group}' is the row's
            own); empty: the number's null.
        beside_title: What that is; '{name}' is what its note names.
        is_gain: Whether that is a difference to something, and no value of its own.
        rests_on: Metric and pattern of a number that the sentence rests on as well.
        qualify: Says in a second sentence what follows from that number, or from its absence.
        shown: What the title says of the group ('{group}', or its '{last}' part); '' is nothing.
    """

    key: str
    title: str
    probe: str
    metric: str
    groups: str
    rule: readings.Rule
    axis: str
    beside: tuple[str, str] = ("", "")
    beside_title: str = ""
    is_gain: bool = False
    rests_on: tuple[str, str] = ("", "")
    qualify: readings.Qualifier | None = None
    shown: str = "{group}"


_POOLS = r"harmful|benign|pooled"
WANTED: tuple[Wanted, ...] = (
    Wanted(
        key="asr",
        title="Harmful, not refused",
        probe="prefix_commitment",
        metric="prefix_asr_nonrefusal",
        groups=r"harmful · 100%",
        rule=readings.attack_success,
        axis="share",
        shown="behind whole traces",
    ),
    Wanted(
        key="orr",
        title="Benign, refused",
        probe="prefix_commitment",
        metric="prefix_orr",
        groups=r"benign · 100%",
        rule=readings.over_refusal,
        axis="share",
        shown="behind whole traces",
    ),
    Wanted(
        key="first_token",
        title="Outcome readable before thinking",
        probe="first_token",
        metric="refusal_auroc",
        groups=rf"({_POOLS}) · state A",
        rule=readings.readable,
        axis="AUROC",
        beside=("refusal_auroc_gain", "{group}"),
        beside_title="over the best control ({name})",
        is_gain=True,
    ),
    Wanted(
        key="first_token_b",
        title="Outcome readable at the first token",
        probe="first_token",
        metric="refusal_auroc",
        groups=rf"({_POOLS}) · state B",
        rule=readings.readable_later,
        axis="AUROC",
        beside=("refusal_auroc_gain", "{group}"),
        beside_title="over the best control ({name})",
        is_gain=True,
    ),
    Wanted(
        key="readable_from",
        title="Part of the prompt after which it can be read",
        probe="prefill_decision",
        metric="readable_from",
        groups=r"harmful|benign",
        rule=readings.readable_from,
        axis="share",
    ),
    Wanted(
        key="valley",
        title="Depth of the valley",
        probe="valley",
        metric="valley_depth",
        groups=r".*",
        rule=readings.valley,
        axis="depth",
    ),
    Wanted(
        key="settled",
        title="Outcome settled",
        probe="prefix_commitment",
        metric="settled",
        groups=r"all · 2[05]%",
        rule=readings.settled,
        axis="share",
        beside=("settled", r"all · 100%.*"),
        beside_title="ceiling, at 100%",
        shown="after {last} of the trace",
    ),
    Wanted(
        key="committed",
        title="Part of the trace after which it stays settled",
        probe="prefix_commitment",
        metric="commitment_cut",
        groups=r"all",
        rule=readings.committed,
        axis="share",
        shown="",
    ),
    Wanted(
        key="flips_better",
        title="Flips for the better",
        probe="think_flip",
        metric="flips_better",
        groups=r".*",
        rule=readings.better_or_worse,
        axis="share",
    ),
    Wanted(
        key="flips_worse",
        title="Flips for the worse",
        probe="think_flip",
        metric="flips_worse",
        groups=r".*",
        rule=readings.better_or_worse,
        axis="share",
    ),
    Wanted(
        key="flips_over_chance",
        title="Flips beyond two draws of one mode",
        probe="think_flip",
        metric="flips_over_chance",
        groups=r".*",
        rule=readings.flips,
        axis="change",
        beside_title="flips between two draws",
    ),
    Wanted(
        key="oscillation",
        title="Traces that change sides",
        probe="oscillation",
        metric="oscillation_rate",
        groups=r"",
        rule=readings.oscillates,
        axis="share",
    ),
    Wanted(
        key="performative",
        title="Changes of stance without a shown effect",
        probe="oscillation",
        metric="performative_share",
        groups=r"",
        rule=readings.performative,
        axis="share",
        beside=("significant_excess", r""),
        beside_title="with a shown effect, over sham cuts",
        is_gain=True,
    ),
    Wanted(
        key="meaningful",
        title="Changes of stance with a shown effect, a trace",
        probe="oscillation",
        metric="meaningful_per_trace",
        groups=r"",
        rule=readings.meaningful,
        axis="per trace",
    ),
    Wanted(
        key="latent_harm",
        title="Harmful told from benign before thinking",
        probe="latent_harm",
        metric="harm_auroc",
        groups=r".*state A.*",
        rule=readings.told_apart,
        axis="AUROC",
        beside=("harm_auroc_gain", "{group}"),
        beside_title="over the best control but the benchmark ({name})",
        is_gain=True,
        rests_on=("harm_auroc_unseen", "{group}"),
        qualify=readings.by_source,
    ),
    Wanted(
        key="steering",
        title="Refusals that steering adds",
        probe="latent_harm",
        metric="steering_gain",
        groups=r".*",
        rule=readings.gain,
        axis="change",
    ),
)
