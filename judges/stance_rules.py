"""``stance-rules``: offline, deterministic rules on what each chunk of a trace leans to.

The default of the oscillation probe. A chunk is taken apart into clauses; each is looked at for
first-person plans to refuse or to comply, for safety concerns, and for words that the request is
fine; the last clause that takes a side decides. What is quoted is left out. The cues and their
version are in ``_stance_patterns``.

Known limits: English only. Concerns in words that are not listed are missed, and so is irony. It
has been held against sentences written for tseval, never against labels that people gave to real
traces, and so is marked as unvalidated.

Source: The three levels are those of arXiv 2606.25013: leaning to refuse or raising a safety
concern, neutral or restating, planning to comply.
Differs: Rules instead of three language models behind paid interfaces.
"""

import tseval

from ._stance_version import VERSION


class StanceRules:
    """The judge; see the module's docstring."""

    validated = ""
    card = tseval.JudgeCard(
        name="stance-rules",
        version=VERSION,
        labels=(),
        sees="trace",
        summary="offline rules on each chunk; English; not validated against people",
        licence="Apache-2.0",
        paper="levels as in arXiv 2606.25013",
        asked=(),
    )

    async def label(self, case, model):
        """See ``tseval.roles.StanceJudge``; no model is used."""
        from ._stance_patterns import stance  # compiles its patterns when first needed

        return tseval.Stances(labels=tuple(stance(chunk) for chunk in case.chunks))


@tseval.hookimpl
def register_stance_judges(register):
    """Register the judge."""
    register(StanceRules())
