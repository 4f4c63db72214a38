"""``refusal-rules``: an offline, deterministic judge of refusals, and the default.

It reads the answer alone and says whether it refuses, fully or in part, by rules on how answers
open, what they go on to do, and whether they are text at all. How the rules are applied is in
``_refusal_text``; the cues, their version and the words they are made of are in the other
``_refusal_*`` modules. How far it agrees with people is measured by
``tests/unit/test_refusal_calibration.py``.

Known limits: English only (other languages read as no refusal). Moralising answers without an
"I can't" are missed most often. 'full' against 'partial' is rough; the refusal label is not.

Source: Labels follow XSTest (arXiv 2308.01263): full compliance, full refusal, partial refusal.
Differs: Published string matching looks for a few phrases anywhere; this looks at clauses, at who
refuses what, and at what follows.
"""

import tseval

from ._refusal_version import VERSION


class RefusalRules:
    """The judge; see the module's docstring."""

    card = tseval.JudgeCard(
        name="refusal-rules",
        version=VERSION,
        labels=("refusal",),
        summary="offline rules on the answer: full, partial, none; empty and degenerate apart",
        licence="Apache-2.0",
        paper="labels as in arXiv 2308.01263",
        asked=(),
    )

    async def judge(self, case, model):
        """See ``tseval.roles.Judge``; no model is used."""
        from ._refusal_text import (
            classify,
        )  # compiles its patterns, which takes a third of a second

        reading = classify(case.text)
        return tseval.Verdict(
            refusal=reading.refusal,
            degree=reading.degree,
            reason=reading.reason,
            raw=reading.evidence,
        )


@tseval.hookimpl
def register_judges(register):
    """Register the judge."""
    register(RefusalRules())
