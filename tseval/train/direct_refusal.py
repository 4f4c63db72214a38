"""``direct-refusal``: train a model to refuse every harmful prompt in the same words.

No model is asked for the refusals: a fixed thought of one line, where the model thinks, and a
fixed answer. Benign answers are the model's own, as with ``thinksafe``, so that the two differ in
their refusals alone.

Source: The data set DirectRefusal of arXiv 2503.00555, a comparison of arXiv 2601.23143: refusals
behind a fixed one-line thought.
Differs: The words are tseval's own; that data has no benign rows, which ``-T benign=none`` gives.
"""

from typing import TYPE_CHECKING

import msgspec

from tseval.errors import ConfigError
from tseval.roles import TrainerCard

from .records import Acceptance, Example, Fitted, Gathered
from .thinksafe import OPTIONS as OWN_OPTIONS
from .thinksafe import check_options, gather_own, read

if TYPE_CHECKING:
    from tseval.session import Session

    from .job import Job
    from .prompts import Prompts

THOUGHT = "This asks for something harmful, so I will not answer it."
ANSWER = "I'm sorry, but I can't help with that."
OPTIONS = {
    **OWN_OPTIONS,
    "benign": "'own' (default): the model's own answers; 'none': no benign rows",
}


class DirectRefusal:
    """The trainer; see the module's docstring."""

    card = TrainerCard(
        name="direct-refusal",
        summary="one fixed refusal for every harmful prompt, and its own benign answers",
        takes=("harmful", "benign"),
        paper="arXiv 2503.00555",
        options=OPTIONS,
        unread=("draws",),
    )

    async def gather(self, session: "Session", job: "Job") -> Gathered:
        """Write refusals, draw benign answers; see ``tseval.roles.Trainer``."""
        check_options(job.recipe, OPTIONS)
        benign = job.recipe.options.get("benign", "own")
        if benign not in ("own", "none"):
            raise ConfigError(f"-T benign is {benign!r}", hint="own or none")
        if job.recipe.select != "all":
            raise ConfigError(
                "direct-refusal writes every trace itself, and has none to weigh",
                hint="leave --select out",
            )
        from .synthesis import thinks

        prompts = await read(job)
        refusals = _refusals(prompts, thought=thinks(session))
        own = Gathered()
        if benign == "own":
            asked = msgspec.structs.replace(prompts, prompts=prompts.of("benign"))
            own = await gather_own(session, job, asked, steer=False)
        n = len(refusals)
        written = Acceptance(kind="harmful", prompts=n, draws=0, accepted=n)
        return msgspec.structs.replace(
            own,
            examples=(*refusals, *own.examples),
            prompts={"harmful": n, **own.prompts},
            acceptance=(written, *own.acceptance),
            dropped=prompts.dropped,
            notes=(*prompts.notes, f"{n} refusals are written, not drawn"),
        )

    def fit(self, gathered: Gathered, job: "Job") -> Fitted:
        """Fit an adapter; see ``tseval.train.sft``."""
        from .sft import fit

        return fit(gathered, job)


def _refusals(prompts: "Prompts", *, thought: bool) -> tuple[Example, ...]:
    from .accepted import make_example

    trace = THOUGHT if thought else ""
    return tuple(
        make_example(prompt, trace=trace, answer=ANSWER, thought=thought)
        for prompt in prompts.of("harmful")
    )
