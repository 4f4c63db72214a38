"""Scripts that stand in for a model: what a scripted backend writes, and its vocabulary of bytes.

Use them through ``tseval.testing``.
"""

from collections.abc import Callable, Iterable
from hashlib import sha256

from msgspec import Struct

from .formats import TAG_PAIRS, TemplateView
from .types import Message

_HARMONY = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|return|>")
MARKS: tuple[str, ...] = (*(mark for pair in TAG_PAIRS for mark in pair), *_HARMONY)


def encode(text: str) -> tuple[int, ...]:
    """Token ids of a text: known marks are one token each, everything else is bytes."""
    ids: list[int] = []
    while text:
        cuts = [(text.find(mark), number) for number, mark in enumerate(MARKS)]
        start, number = min(((c, n) for c, n in cuts if c >= 0), default=(len(text), -1))
        ids.extend(text[:start].encode())
        if number < 0:
            break
        ids.append(256 + number)
        text = text[start + len(MARKS[number]) :]
    return tuple(ids)


def decode(ids: Iterable[int]) -> str:
    """Text of token ids; bytes that are no UTF-8 become replacement characters."""
    ids = tuple(ids)
    parts: list[str] = []
    start = 0
    for place in (place for place, token in enumerate(ids) if token >= 256):
        parts += (bytes(ids[start:place]).decode(errors="replace"), MARKS[ids[place] - 256])
        start = place + 1
    parts.append(bytes(ids[start:]).decode(errors="replace"))
    return "".join(parts)


class Call(Struct, frozen=True, kw_only=True):
    """What a script is asked to go on from.

    Attributes:
        messages: The conversation.
        prefix: Text of the assistant's turn so far ('' at its start).
        seed: Row seed.
        thinking_off: Whether the chat template was told not to think.
        raw: Where there are no messages, the raw prompt (the first piece of it).
    """

    messages: tuple[Message, ...]
    prefix: str
    seed: int
    thinking_off: bool = False
    raw: str = ""

    @property
    def prompt(self) -> str:
        """The last user turn; without messages, the raw prompt."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), self.raw)

    def share(self, *more: object) -> float:
        """A number in [0, 1) that depends on prompt, seed and what else is given."""
        text = "\0".join(map(str, (self.prompt, self.seed, *more)))
        return int.from_bytes(sha256(text.encode()).digest()[:6], "big") / 2**48


Script = Callable[[Call], str]


def mixed(call: Call) -> str:
    """The default script: refuses three of ten rollouts, answers the rest."""
    return _rest(_answer(call), call.prefix)


def thinking(call: Call) -> str:
    """A script in think tags: deliberates, then does what :func:`mixed` does."""
    answer = _answer(call)
    if call.thinking_off:
        return _rest(answer, call.prefix)
    if "</think>" in call.prefix:
        return _rest(answer, call.prefix.split("</think>")[-1].lstrip())
    steps = " ".join(f"Step {n} of it." for n in range(1 + int(call.share("steps") * 8)))
    whole = f"<think>\nLet me look at this. {steps}\n</think>\n\n{answer}"
    if whole.startswith(call.prefix):
        return whole.removeprefix(call.prefix)
    # Somebody else's beginning of a trace: go on from there.
    return f" {steps}\n</think>\n\n{answer}"


def _answer(call: Call) -> str:
    if call.share() < 0.3:
        return "I'm sorry, but I can't help with that request."
    return f"Here is a short answer to your question, number {int(call.share('n') * 1e6)}."


def _rest(whole: str, prefix: str) -> str:
    """What is left to write of a turn that began like this."""
    return whole.removeprefix(prefix) if whole.startswith(prefix) else whole


CHAT_VIEW = TemplateView(rendered="<user>x\n<assistant>", rendered_off="<user>x\n<assistant>")
TAGS_VIEW = TemplateView(
    rendered="<user>x\n<assistant>",
    rendered_off="<user>x\n<assistant>",
    template="... </think> ...",
    single_tokens=frozenset({"<think>", "</think>"}),
)
