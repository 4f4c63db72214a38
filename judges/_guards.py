"""What the guard judges have in common: filling a prompt, breaking up marks, reading options.

A guard's prompt is a published format. The texts that go into it are anybody's, and must not be
able to end the user's turn, open the guard's own, or close the section that they stand in.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

import tseval

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# How much of a reply that cannot be read is kept, in characters.
RAW_LENGTH = 500
_FIELD = re.compile(r"\{(prompt|answer)\}")
# Marks that an engine leaves at the end of a reply, such as an end-of-text token that is not the
# end-of-turn token.
_TRAILING = re.compile(r"(?:\s*(?:<\|\w+\|>|</s>|<eos>|<end_of_turn>))+\s*$")


def fill(template: str, prompt: str, answer: str) -> str:
    """Put prompt and answer into a template, once: braces inside the texts mean nothing."""
    texts = {"prompt": prompt, "answer": answer}
    return _FIELD.sub(lambda found: texts[found[1]], template)


def marks(*literal: str) -> re.Pattern[str]:
    """Make a pattern of control marks: ``<|any-name|>``, and the given ones, as written."""
    return re.compile("|".join([r"<\|[^\s<>]{1,64}?\|>", *map(re.escape, literal)]))


def escape(text: str, pattern: re.Pattern[str]) -> str:
    """Break up control marks with a space behind their first character.

    It shows, it stays readable, and no tokenizer takes what is left for the mark.
    """
    # Again, since a mark may have stood inside another one.
    while pattern.search(text):
        text = pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    return text


class Shown(NamedTuple):
    """The texts that a guard is shown, marks broken up, and the remarks about that."""

    prompt: str
    answer: str
    notes: tuple[str, ...]


def show(case: tseval.JudgeCase, pattern: re.Pattern[str], *, strip: bool = False) -> Shown:
    """Prepare a case; ``strip`` where the published template strips its messages."""
    prompt, answer = escape(case.prompt, pattern), escape(case.text, pattern)
    notes = ("escaped",) if (prompt, answer) != (case.prompt, case.text) else ()
    if strip:
        prompt, answer = prompt.strip(), answer.strip()
    return Shown(prompt, answer, notes)


def conversation(prompt: str, answer: str) -> tuple[tseval.Message, ...]:
    """Make the conversation that is judged: one turn each."""
    return (
        tseval.Message(role="user", content=prompt),
        tseval.Message(role="assistant", content=answer),
    )


def text_of(rollout: tseval.Rollout) -> str:
    """Return what a guard replied, without end marks; '' where it never got to reply."""
    return _TRAILING.sub("", rollout.answer or "").strip()


def unparsed(text: str, **details: str) -> tseval.Verdict:
    """Return the verdict on a reply that cannot be read: none."""
    return tseval.Verdict(reason="unparsed", raw=text[:RAW_LENGTH], details=details)


def ended(verdict: tseval.Verdict, notes: Iterable[str], **details: str) -> tseval.Verdict:
    """Return a verdict with further remarks and details."""
    from msgspec.structs import replace

    return replace(verdict, notes=(*verdict.notes, *notes), details={**verdict.details, **details})


def digest(*parts: str) -> str:
    """Hash prompt texts, for a card's identity."""
    return sha256("\0".join(parts).encode()).hexdigest()[:16]


def take_options(
    judge: str, given: Mapping[str, str], known: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    """Check a judge's options.

    Args:
        judge: Its name, for messages.
        given: What the user wrote.
        known: The options with the values that each takes; no values means any text.

    Raises:
        ConfigError: An option or its value is unknown; the message names the good ones.
    """
    for option, value in given.items():
        if option not in known:
            raise tseval.ConfigError(
                f"judge {judge!r} has no option {option!r}",
                hint=f"it takes {', '.join([*known, 'text'])}",
            )
        if known[option] and value not in known[option]:
            raise tseval.ConfigError(
                f"judge {judge!r}: {option} is {value!r}", hint=f"one of {', '.join(known[option])}"
            )
    return dict(given)


def plain_json(text: str) -> dict[str, Any] | None:
    """Read a reply that is one JSON object, alone or in one code fence; None if it is not.

    An object that names a field twice is none: the two could contradict each other.
    """
    import json

    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*)\n\s*```", text.strip(), re.DOTALL)
    try:
        value = json.loads(
            fenced[1] if fenced else text, object_pairs_hook=_once, parse_constant=_no_number
        )
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is named twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
