"""How large each probe is at each scale (``--scale``)."""

from msgspec import Struct

from tseval.errors import ConfigError

SCALES = ("smoke", "standard", "paper")


class Sizes(Struct, frozen=True, kw_only=True):
    """Every size of every probe at one scale.

    Attributes:
        scale: Its name.
        harmful_from, benign_from: Benchmarks that the prompts come from.
        harmful, benign: Prompts of each class.
        trace_tokens, answer_tokens: Most tokens of a trace, of an answer.
        flip_rollouts: Rollouts a prompt in each mode (think_flip).
        commitment_prompts: Prompts of both classes together (prefix_commitment) ...
        commitment_traces: ... traces of each ...
        commitment_answers: ... and continuations at each cut of each trace.
        commitment_cuts: Cuts in percent of a trace; above 100 the trace is extended.
        valley_layers: Layers that the valley is read at, by name; all measures at the last.
        stance_prompts: Prompts of both classes together whose traces oscillation reads ...
        stance_traces: ... and traces of each.
        cuts: Most transitions that are replayed; each has four points: before and after it, and
            those of a sham cut.
        replays: Replays at each point.
        permutations, bootstraps: Draws of each null and of each interval.
    """

    scale: str
    harmful_from: tuple[str, ...]
    benign_from: tuple[str, ...]
    harmful: int
    benign: int
    trace_tokens: int
    answer_tokens: int
    flip_rollouts: int
    commitment_prompts: int
    commitment_traces: int
    commitment_answers: int
    commitment_cuts: tuple[int, ...]
    valley_layers: tuple[str, ...]
    stance_prompts: int
    stance_traces: int
    cuts: int
    replays: int
    permutations: int
    bootstraps: int


_PAPER_HARMFUL = ("wildjailbreak", "fortress")
_PAPER_BENIGN = ("or_bench", "falsereject", "coconot")

SIZES: dict[str, Sizes] = {
    sizes.scale: sizes
    for sizes in (
        # About half an hour for the demo model on two cores, on prompts that ship with tseval.
        Sizes(
            scale="smoke",
            harmful_from=("probe_harmful",),
            benign_from=("probe_benign",),
            harmful=60,
            benign=60,
            trace_tokens=96,
            answer_tokens=48,
            flip_rollouts=4,
            commitment_prompts=40,
            commitment_traces=2,
            commitment_answers=4,
            commitment_cuts=(0, 25, 50, 75, 100),
            valley_layers=("1/2", "last"),
            stance_prompts=120,
            stance_traces=1,
            cuts=30,
            replays=16,
            permutations=200,
            bootstraps=500,
        ),
        Sizes(
            scale="standard",
            harmful_from=_PAPER_HARMFUL,
            benign_from=_PAPER_BENIGN,
            harmful=500,
            benign=500,
            trace_tokens=8192,
            answer_tokens=512,
            flip_rollouts=16,
            commitment_prompts=200,
            commitment_traces=4,
            commitment_answers=8,
            commitment_cuts=(0, 10, 20, 40, 60, 80, 100, 120, 150, 200),
            valley_layers=("last",),
            stance_prompts=300,
            stance_traces=2,
            cuts=300,
            replays=50,
            permutations=500,
            bootstraps=1000,
        ),
        # Constants of arXiv 2606.25013 (methods in docs/concepts); 0% is cut there by not thinking.
        Sizes(
            scale="paper",
            harmful_from=_PAPER_HARMFUL,
            benign_from=_PAPER_BENIGN,
            harmful=2500,
            benign=2885,
            trace_tokens=16384,
            answer_tokens=1024,
            flip_rollouts=32,
            commitment_prompts=5385,
            commitment_traces=8,
            commitment_answers=8,
            commitment_cuts=(0, 20, 40, 60, 80, 100, 120, 140, 160, 180, 200),
            valley_layers=("last",),
            stance_prompts=600,
            stance_traces=4,
            cuts=10_000,
            replays=100,
            permutations=1000,
            bootstraps=1000,
        ),
    )
}


def sizes_of(scale: str) -> Sizes:
    """Return the sizes of a scale.

    Raises:
        ConfigError: There is no such scale.
    """
    if scale not in SIZES:
        raise ConfigError(f"--scale is {scale!r}", hint=f"expected one of {', '.join(SCALES)}")
    return SIZES[scale]
