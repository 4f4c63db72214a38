"""A model for guard judges that says what a test wants, and remembers what it was asked."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tseval.errors import RequestFailed
from tseval.roles import Question
from tseval.types import ChoiceScores, Rollout

Says = str | None | Callable[[Question], str | None]


def whole(question: Question) -> str:
    """Everything that a question holds, as one text."""
    return question.raw or "\n".join(message.content for message in question.messages)


@dataclass
class GuardModel:
    """Plays ``tseval.roles.JudgeModel``; a character is a token.

    Attributes:
        says: Reply, or what makes it; None for a trace that never closed.
        asked, choices, context_length: As in the contract.
        chances: What :meth:`choose` gives.
        counts: Whether lengths are known.
        takes: Longest question that is taken, in characters, whatever was counted.
        questions: What was asked, in order, of either kind.
        replies: Number of calls of :meth:`reply`.
        limits: (tokens, think) of each reply.
    """

    says: Says = "nothing"
    asked: Literal["raw", "chat"] = "raw"
    choices: bool = False
    context_length: int | None = None
    chances: ChoiceScores | Exception = field(default_factory=lambda: ChoiceScores(logprobs={}))
    counts: bool = True
    takes: int | None = None
    questions: list[Question] = field(default_factory=list)
    replies: int = 0
    limits: list[tuple[int, int]] = field(default_factory=list)

    def tokens(self, question: Question) -> int | None:
        return len(whole(question)) if self.counts else None

    async def reply(
        self, question: Question, *, tokens: int, think: int = 0, temperature: float = 0.0
    ) -> Rollout:
        assert temperature == 0, "guards are asked greedily"
        self._take(question)
        self.replies += 1
        self.limits.append((tokens, think))
        answer = self.says(question) if callable(self.says) else self.says
        return Rollout(key="00", answer=answer, trace="" if answer is not None else "hm")

    async def choose(self, question: Question, choices: tuple[str, ...]) -> ChoiceScores:
        assert self.choices, "the backend has none"
        self._take(question)
        if isinstance(self.chances, Exception):
            raise self.chances
        return self.chances

    @property
    def last(self) -> str:
        """The last question's whole text."""
        return whole(self.questions[-1])

    def _take(self, question: Question) -> None:
        assert bool(question.raw) != bool(question.messages)
        assert bool(question.raw) == (self.asked == "raw")
        self.questions.append(question)
        if self.takes is not None and len(whole(question)) > self.takes:
            raise RequestFailed("too long", kind="overlong")
