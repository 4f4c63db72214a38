"""``rejection``: train a model on its own safe answers, drawn without telling it anything.

What is missing here is the notice alone, so the difference to ``thinksafe`` is what steering
gives: a model that complies with most harmful prompts has few answers of its own to learn from.

Source: Rejection sampling from the model itself, the comparison without steering of arXiv
2601.23143.
Differs: The filters are those of ``thinksafe`` here; without the notice, a safe answer need be no
refusal wherever a judge says 'harmful'.
"""

from typing import TYPE_CHECKING

from tseval.roles import TrainerCard

from .records import Fitted, Gathered
from .thinksafe import OPTIONS, check_options, gather_own, read

if TYPE_CHECKING:
    from tseval.session import Session

    from .job import Job


class Rejection:
    """The trainer; see the module's docstring."""

    card = TrainerCard(
        name="rejection",
        summary="its own safe answers, drawn without a notice: thinksafe without steering",
        takes=("harmful", "benign"),
        paper="arXiv 2601.23143",
        options=OPTIONS,
    )

    async def gather(self, session: "Session", job: "Job") -> Gathered:
        """Draw as users would be answered, filter; see ``tseval.roles.Trainer``."""
        check_options(job.recipe, OPTIONS)
        prompts = await read(job)
        return await gather_own(session, job, prompts, steer=False)

    def fit(self, gathered: Gathered, job: "Job") -> Fitted:
        """Fit an adapter; see ``tseval.train.sft``."""
        from .sft import fit

        return fit(gathered, job)
