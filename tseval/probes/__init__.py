"""Measurements on hidden states and traces: library functions, and what probes are made of.

Everything public is here, loaded when it is first used: ``from tseval import probes``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chunks import MOST_CHUNKS, Chunk, chunked, token_end
    from .commitment import (
        COMMITTED,
        commitment_cut,
        plug_in_variance,
        prefix_agreement,
        prefix_variance,
        settled_share,
    )
    from .commitment_findings import CommitmentFindings, commitment_results
    from .continuations import Continuations, Point
    from .cuts import (
        ALPHA,
        Family,
        Pair,
        Tally,
        choose_cuts,
        cut_p_value,
        detectable_move,
        family_of,
        first_round,
        futile,
        is_locked,
        locked_as_published,
        sign_flip_p,
        smallest_significant_move,
    )
    from .prefixes import (
        is_loop,
        prefix_fault,
        sentence_starts,
        shuffle_sentences,
        tokens_kept,
        trim_trace,
    )
    from .resampling import (
        Resampled,
        bootstrap_estimate,
        prompt_clusters,
        resample_means,
        resample_ratios,
        seeded_generator,
    )
    from .setup import LEAST_OF_A_CLASS, Label, Pool, Probing, begin, undefined
    from .sizes import SCALES, SIZES, Sizes, sizes_of
    from .stances import (
        Run,
        Sham,
        StanceAgreement,
        Transition,
        ordinal_alpha,
        runs_of,
        sham_for,
        stance_agreement,
        transitions,
    )

_HOMES: dict[str, tuple[str, ...]] = {
    "chunks": (
        "MOST_CHUNKS",
        "Chunk",
        "chunked",
        "token_end",
    ),
    "commitment": (
        "COMMITTED",
        "prefix_agreement",
        "commitment_cut",
        "plug_in_variance",
        "prefix_variance",
        "settled_share",
    ),
    "commitment_findings": (
        "CommitmentFindings",
        "commitment_results",
    ),
    "continuations": (
        "Continuations",
        "Point",
    ),
    "cuts": (
        "ALPHA",
        "Family",
        "Pair",
        "Tally",
        "choose_cuts",
        "cut_p_value",
        "detectable_move",
        "family_of",
        "first_round",
        "futile",
        "is_locked",
        "locked_as_published",
        "sign_flip_p",
        "smallest_significant_move",
    ),
    "prefixes": (
        "prefix_fault",
        "is_loop",
        "tokens_kept",
        "sentence_starts",
        "shuffle_sentences",
        "trim_trace",
    ),
    "resampling": (
        "Resampled",
        "bootstrap_estimate",
        "seeded_generator",
        "prompt_clusters",
        "resample_means",
        "resample_ratios",
    ),
    "setup": ("LEAST_OF_A_CLASS", "Label", "Pool", "Probing", "begin", "undefined"),
    "sizes": ("SCALES", "SIZES", "Sizes", "sizes_of"),
    "stances": (
        "Run",
        "Sham",
        "StanceAgreement",
        "Transition",
        "ordinal_alpha",
        "runs_of",
        "sham_for",
        "stance_agreement",
        "transitions",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ALPHA",
    "COMMITTED",
    "LEAST_OF_A_CLASS",
    "MOST_CHUNKS",
    "SCALES",
    "SIZES",
    "Chunk",
    "CommitmentFindings",
    "Continuations",
    "Family",
    "Label",
    "Pair",
    "Point",
    "Pool",
    "Probing",
    "Resampled",
    "Run",
    "Sham",
    "Sizes",
    "StanceAgreement",
    "Tally",
    "Transition",
    "begin",
    "bootstrap_estimate",
    "choose_cuts",
    "chunked",
    "commitment_cut",
    "commitment_results",
    "cut_p_value",
    "detectable_move",
    "family_of",
    "first_round",
    "futile",
    "is_locked",
    "is_loop",
    "locked_as_published",
    "ordinal_alpha",
    "plug_in_variance",
    "prefix_agreement",
    "prefix_fault",
    "prefix_variance",
    "prompt_clusters",
    "resample_means",
    "resample_ratios",
    "runs_of",
    "seeded_generator",
    "sentence_starts",
    "settled_share",
    "sham_for",
    "shuffle_sentences",
    "sign_flip_p",
    "sizes_of",
    "smallest_significant_move",
    "stance_agreement",
    "token_end",
    "tokens_kept",
    "transitions",
    "trim_trace",
    "undefined",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
