"""Asking a judge's model: memoised, journalled, scheduled, and apart from what is measured."""

import math
from hashlib import sha256
from typing import Literal

import msgspec

from .errors import CapabilityMissing, RequestFailed, RowSkipped
from .memo import Memo, content_key
from .requests import ChoiceRequest
from .roles import Backend, JudgeCard, JudgeModel, Question
from .rollouts import Model, Plan, roll_out
from .types import ChoiceScores, Message, Rollout, Sampling, Thinking

# A log-probability that stands for none at all.
_LEAST = -9999.0


def way_of(card: JudgeCard, backend: Backend) -> Literal["raw", "chat"]:
    """Say how a judge's model is asked: the first way on its card that the backend can.

    Raises:
        CapabilityMissing: The backend can none of them.
    """
    for way in card.asked:
        if getattr(backend.capabilities, way):
            return way
    raise CapabilityMissing(
        f"judge {card.name!r} asks its model by {' or '.join(card.asked)}, which"
        f" {backend.spec.backend}/{backend.spec.name} cannot",
        hint="run the judge on another backend, for example hf or vllm",
    )


class AskedModel:
    """A judge's model in a session; see ``tseval.roles.JudgeModel``.

    Args:
        memo: The session's.
        model: The started model.
        card: Of the judge.
        seed: Run seed, for replies that are sampled.
        sample: Index among repeated verdicts of a sampling judge.
    """

    def __init__(self, memo: Memo, model: Model, card: JudgeCard, *, seed: int, sample: int):
        self._memo = memo
        self._model = model
        self._draw = (seed, sample)
        self.asked = way_of(card, model.backend)
        self.choices = model.backend.capabilities.choices
        self.context_length = model.backend.context_length

    def tokens(self, question: Question) -> int | None:
        """Length of the question in tokens; None where the backend cannot know."""
        backend = self._model.backend
        messages = self._messages(question)
        rendered = backend.prompt_tokens(messages, question.template_kwargs)
        text = backend.text_tokens(question.raw) if question.raw else 0
        return None if rendered is None or text is None else rendered + text

    async def reply(
        self, question: Question, *, tokens: int, think: int = 0, temperature: float = 0.0
    ) -> Rollout:
        """Have the model answer."""
        sampling = Sampling(temperature=temperature, top_p=1.0, top_k=0, answer_tokens=tokens)
        thinking = Thinking(
            mode="default" if think else "off", budget=max(think, 1), unclosed="exclude"
        )
        draw = self._draw if temperature else None
        key = content_key(
            [
                "reply",
                self._model.identity,
                msgspec.to_builtins(question),
                msgspec.to_builtins(sampling),
                think,
                draw,
            ]
        )
        plan = Plan(
            key=key,
            seed=row_seed(key),
            messages=self._messages(question),
            sampling=sampling,
            thinking=thinking,
            raw=question.raw,
            template_kwargs=question.template_kwargs,
        )
        try:
            return await self._memo.call(
                "generation", key, Rollout, self._model, lambda: roll_out(self._model, plan)
            )
        except RowSkipped as error:
            raise RequestFailed(error.message, kind="overlong") from error

    async def choose(self, question: Question, choices: tuple[str, ...]) -> ChoiceScores:
        """Say how probable each choice is as the next token."""
        request = ChoiceRequest(
            messages=self._messages(question),
            prefix=(question.raw,) if question.raw else (),
            template_kwargs=question.template_kwargs,
            choices=choices,
        )
        key = content_key(["choice", self._model.identity, msgspec.to_builtins(request)])

        async def make() -> ChoiceScores:
            return _finite(await self._model.backend.choose(request))

        try:
            return await self._memo.call("choice", key, ChoiceScores, self._model, make)
        except RowSkipped as error:
            raise RequestFailed(error.message, kind="overlong") from error

    def _messages(self, question: Question) -> tuple[Message, ...]:
        return () if question.raw else self._model.conversation(question.messages)


def _finite(scores: ChoiceScores) -> ChoiceScores:
    """Keep scores as a journal can hold them: without infinities, and without what is no number."""
    known, floor = scores.logprobs, scores.floor
    if any(math.isnan(value) for value in (*known.values(), floor or 0.0)):
        raise RequestFailed("the model's probabilities are no numbers", kind="engine")
    return ChoiceScores(
        logprobs={choice: max(value, _LEAST) for choice, value in known.items()},
        floor=None if floor is None else max(floor, _LEAST),
    )


def row_seed(key: str) -> int:
    """Derive a rollout's seed from its content key: 63 bits, never part of the key itself."""
    return int.from_bytes(sha256(b"row seed\0" + bytes.fromhex(key)).digest()[:8], "big") >> 1


def asked_model(
    memo: Memo, model: Model | None, card: JudgeCard, *, seed: int, sample: int
) -> JudgeModel | None:
    """Hand a judge its model; None for judges that run none."""
    return None if model is None else AskedModel(memo, model, card, seed=seed, sample=sample)
