"""The benchmarks that probes take their prompts from: checked before a model is loaded."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tseval.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tseval.plugins import Registry
    from tseval.spec import RunSpec


def check_sources(spec: "RunSpec", plugins: "Registry") -> None:
    """Check what ``--harmful-from`` and ``--benign-from`` name.

    Raises:
        UnknownName: No such benchmark.
        ConfigError: It has no prompts of that kind.
    """
    from tseval.cards import BenchmarkCard

    for kind, names in (("harmful", spec.harmful_from), ("benign", spec.benign_from)):
        for name in names:
            card = plugins.benchmarks[name].card
            if not isinstance(card, BenchmarkCard) or card.kind not in (kind, "mixed"):
                raise ConfigError(
                    f"--{kind}-from {name}: that benchmark has no {kind} prompts",
                    hint="tseval ls benchmarks says of what kind each is",
                )


def unread_sources(spec: "RunSpec", plugins: "Registry") -> Iterator[DataError]:
    """Say which prompts of a run's probes cannot be read; nothing for a run without probes."""
    from tseval.cards import BenchmarkCard
    from tseval.data import load_rows
    from tseval.probes import sizes_of

    sizes = sizes_of(spec.scale)
    wanted = (spec.harmful_from or sizes.harmful_from) + (spec.benign_from or sizes.benign_from)
    for name in dict.fromkeys(wanted) if probes_of(spec, plugins) else ():
        card = plugins.benchmarks[name].card
        if not isinstance(card, BenchmarkCard):
            continue
        try:
            load_rows(card, spec.data_dirs, subset_seed=spec.subset_seed)
        except DataError as error:
            yield error


def probes_of(spec: "RunSpec", plugins: "Registry") -> list[str]:
    """Name a run's probes."""
    from tseval.cards import ProbeCard

    return [n for n in spec.benchmarks if isinstance(plugins.benchmarks[n].card, ProbeCard)]
