"""The verdicts of a session: each text judged once, each answer graded once, and journalled."""

from collections.abc import Mapping
from typing import Any

import msgspec

from .asking import asked_model
from .errors import RequestFailed, RowSkipped
from .judging import Seat, identify
from .memo import Memo, content_key
from .panels import Panel
from .protocol import JudgeIdentity, canonical_json
from .roles import JudgeCase
from .rollouts import Model
from .types import TextJudged, Verdict
from .workers import Workers


class Verdicts:
    """Has texts judged and answers graded.

    Args:
        memo: The session's.
        models: Started models by role.
        seats: The run's judges by label, members of panels before the panel.
        workers: Processes in which checkers run.
        seed: Run seed, for judges that sample.
    """

    def __init__(
        self,
        memo: Memo,
        models: dict[str, Model],
        seats: dict[str, Seat],
        workers: Workers,
        *,
        seed: int,
    ) -> None:
        self._memo = memo
        self._models = models
        self._seats = seats
        self._workers = workers
        self._seed = seed
        self._identities: dict[str, JudgeIdentity] = {}
        self._written: dict[str, msgspec.Raw] = {}

    def identity_of(self, judge: str) -> JudgeIdentity:
        """Identity of a judge, its model's or its members' included."""
        if judge not in self._identities:
            seat = self._seats[judge]
            members = [self.identity_of(member) for member in seat.members]
            self._identities[judge] = identify(seat, self._models, members)
        return self._identities[judge]

    async def judge(
        self,
        judge: str,
        case: JudgeCase,
        *,
        sees: TextJudged,
        sample: int,
        known: Mapping[str, Verdict],
    ) -> tuple[str, Verdict]:
        """Have a text judged; see ``tseval.session.Session.judge``."""
        seat = self._seats[judge]
        if not case.text.strip():
            # Nothing was said: the model's doing, and nothing that a judge could be asked about.
            return "", Verdict(reason="empty")
        if judge not in self._written:
            # Part of every key of the judge: written out once.
            self._written[judge] = msgspec.Raw(canonical_json(self.identity_of(judge)))
        named = self._written[judge]
        key = content_key(["verdict", named, case.prompt, case.text, sees, sample])
        found = self._memo.find("verdict", key, Verdict)
        if found is not None:
            return key, found
        if isinstance(seat.judge, Panel):
            votes = dict(known)
            for member in seat.members:
                if member not in votes:
                    _, votes[member] = await self.judge(
                        member, case, sees=sees, sample=sample, known=known
                    )
            verdict = _count(seat, seat.judge, votes)
        else:
            model = asked_model(
                self._memo,
                self._models[seat.role] if seat.role else None,
                seat.judge.card,
                seed=self._seed,
                sample=sample,
            )
            try:
                verdict = await seat.judge.judge(case, model)
            except (RequestFailed, RowSkipped) as error:
                self._memo.lost("verdict", key, error)
                return key, Verdict(reason="error", raw=error.message)
        if verdict.reason == "error":
            return key, verdict
        return key, self._kept(key, verdict)

    async def grade(
        self,
        checker: str,
        identity: JudgeIdentity,
        reference: str,
        answer: str,
        *,
        fate: str,
        seconds: float,
    ) -> tuple[str, Verdict]:
        """Have an answer checked against the right one.

        Args:
            checker: Module of the checker.
            identity: What its verdicts depend on.
            reference: The right answer.
            answer: The model's.
            fate: Why the answer is wrong without being looked at ('truncated', 'unclosed'), or
                ''.
            seconds: Time after which the check is stopped, and counts as failed.

        Returns:
            The verdict's key and the verdict: ``correct``, in ``raw`` the answer that was found,
            and in ``details`` whether there was one. A checker that fails gives a verdict with
            reason 'error', which is not journalled as one: it is tried again on resume.
        """
        named = msgspec.to_builtins(identity)
        key = content_key(["grade", checker, named, reference, answer, fate])
        if fate:
            verdict = Verdict(correct=False, details={"fate": fate})
            self._memo.journal.append("verdict", key, verdict)
            return key, verdict

        async def make() -> Verdict:
            value = await self._workers.call(
                f"{checker}:check", (reference, answer), seconds=seconds
            )
            found = _checked(checker, value)
            return Verdict(
                correct=found.correct,
                raw=found.extracted or "",
                details={
                    **found.details,
                    **{name: f"{right}/{of}" for name, (right, of) in found.parts.items()},
                    "extracted": "no" if found.extracted is None else "yes",
                },
            )

        try:
            return key, await self._memo.compute("verdict", key, Verdict, make)
        except RequestFailed as error:
            return key, Verdict(reason="error", raw=error.message)

    def _kept(self, key: str, verdict: Verdict) -> Verdict:
        if key in self._memo.journal:
            # Somebody asked the same meanwhile: what was journalled first is what counts.
            return self._memo.find("verdict", key, Verdict) or verdict
        self._memo.journal.append("verdict", key, verdict)
        self._memo.counts["verdict.made"] += 1
        return verdict


class _Check(msgspec.Struct, frozen=True):
    """What a checker of answers returns.

    Attributes:
        correct: Whether the answer is right.
        extracted: The answer that was found, or None.
        parts: What is counted beside that, by name: how many are right, and how many there are.
        details: What else there is to know.
    """

    correct: bool
    extracted: str | None
    parts: dict[str, tuple[int, int]] = {}
    details: dict[str, str] = {}


def _checked(checker: str, value: Any) -> _Check:
    """Read what a checker returned; what is not as agreed says nothing about the answer."""
    try:
        found = msgspec.convert(value, _Check)
    except msgspec.ValidationError as error:
        raise RequestFailed(f"{checker}:check: {error}", kind="malformed") from error
    if found.correct and found.extracted is None:
        raise RequestFailed(f"{checker}:check: right, without an answer", kind="malformed")
    if any(not 0 <= right <= of for right, of in found.parts.values()):
        raise RequestFailed(f"{checker}:check: more parts right than there are", kind="malformed")
    if {"fate", "extracted"} & {*found.parts, *found.details}:
        raise RequestFailed(f"{checker}:check: 'fate' and 'extracted' are taken", kind="malformed")
    return found


def _count(seat: Seat, panel: Panel, votes: Mapping[str, Verdict]) -> Verdict:
    """Count the votes of a panel's members."""
    verdicts = [votes[member] for member in seat.members]
    decided = panel.vote(dict(zip(panel.members, verdicts, strict=True)))
    if decided.reason != "error":
        return decided
    failures = [verdict.raw for verdict in verdicts if verdict.reason == "error"]
    return msgspec.structs.replace(decided, raw=failures[0])
