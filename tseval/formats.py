"""Reasoning formats: how a model family opens its thinking trace, closes it, and switches it off.

One :class:`ThinkingFormat` describes a family. It is chosen once, by rendering the model's chat
template and looking at it (:func:`choose_format`), never by searching finished texts for tags.

Legend: *mark* = text that the model writes; *opener*, *closer* = text that tseval appends.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

from msgspec import Struct

from .errors import ConfigError, UnknownName
from .hookspecs import Register, hookimpl
from .types import ThinkingMode

# Pairs of marks that released reasoning models use around their traces.
TAG_PAIRS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
_HARMONY_ANALYSIS = "<|channel|>analysis<|message|>"
_HARMONY_FINAL = "<|channel|>final<|message|>"


class ThinkingFormat(Struct, frozen=True, kw_only=True):
    """How one model family writes its thinking trace.

    Attributes:
        name: 'tags', 'template-tags', 'harmony', 'none', 'forced', or a plugin's own.
        opener_mark: What stands before the trace, if the model writes it; '' if it cannot.
        answer_mark: What ends the trace and starts the answer; '' for no format.
        opened_by: 'model' writes the opener, the 'template' already did, 'tseval' prefills it,
            or '' where there is no trace.
        opener: Text that tseval prefills to open a trace (mode 'forced').
        closer: Text that tseval appends to close one.
        off_kwargs: Chat-template arguments that switch thinking off ...
        off_prefill: ... or text to prefill instead, where the template knows no switch.
        headless: What a completion is that carries no mark at all: the 'answer', or a 'trace'
            (harmony, where every message has a header, so one without never got to the answer).
        noise: Marks inside a trace that are no part of its text.
        end_marks: Marks that may trail an answer and are no part of it.
    """

    name: str
    opener_mark: str = ""
    answer_mark: str = ""
    opened_by: Literal["model", "template", "tseval", ""] = ""
    opener: str = ""
    closer: str = ""
    off_kwargs: dict[str, bool] = {}
    off_prefill: str = ""
    headless: Literal["answer", "trace"] = "answer"
    noise: tuple[str, ...] = ()
    end_marks: tuple[str, ...] = ()

    @property
    def thinks(self) -> bool:
        """Whether completions in this format can hold a trace."""
        return bool(self.answer_mark)


class TemplateView(Struct, frozen=True, kw_only=True):
    """What a format family may look at to recognise itself.

    Attributes:
        rendered: A one-turn conversation rendered with the generation header.
        rendered_off: The same with ``enable_thinking=False``; equal where it changes nothing.
        template: Source of the chat template, '' where the backend has none to show.
        single_tokens: Those of the known marks that are one token of the vocabulary.
    """

    rendered: str
    rendered_off: str
    template: str = ""
    single_tokens: frozenset[str] = frozenset()


class FormatFamily(Struct, frozen=True, kw_only=True):
    """A format and how it is recognised; what ``register_formats`` takes.

    Attributes:
        name: Family name, as ``-M format=NAME`` takes it.
        recognise: Returns the format if the template is of this family, else None.
        make: Returns the format unconditionally, for an explicit ``-M format=NAME``.
        priority: Families are asked in falling order.
    """

    name: str
    recognise: Callable[[TemplateView], ThinkingFormat | None]
    make: Callable[[TemplateView], ThinkingFormat]
    priority: int = 0


NO_FORMAT = ThinkingFormat(name="none")
FORCED_TAGS = ThinkingFormat(
    name="forced",
    opener_mark="<think>",
    answer_mark="</think>",
    opened_by="tseval",
    opener="<think>\n",
    closer="\n</think>\n\n",
    off_prefill="",
)


def _tags(pair: tuple[str, str], view: TemplateView, opened_by: str) -> ThinkingFormat:
    opener, closer = pair
    switched = view.rendered_off != view.rendered
    closed = f"\n\n{closer}\n\n"
    return ThinkingFormat(
        name="template-tags" if opened_by == "template" else "tags",
        opener_mark=opener,
        answer_mark=closer,
        opened_by="template" if opened_by == "template" else "model",
        opener="" if opened_by == "template" else f"{opener}\n",
        closer=f"\n{closer}\n\n",
        off_kwargs={"enable_thinking": False} if switched else {},
        off_prefill=""
        if switched
        else (f"\n{closer}\n\n" if opened_by == "template" else opener + closed),
    )


def _pair_for(view: TemplateView) -> tuple[str, str]:
    for pair in TAG_PAIRS:
        if pair[1] in view.template or pair[0] in view.single_tokens:
            return pair
    return TAG_PAIRS[0]


def _recognise_template_tags(view: TemplateView) -> ThinkingFormat | None:
    end = view.rendered.rstrip()
    return next(
        (_tags(pair, view, "template") for pair in TAG_PAIRS if end.endswith(pair[0])), None
    )


def _recognise_tags(view: TemplateView) -> ThinkingFormat | None:
    # A model that never emits the mark loses nothing by this: its completions parse as answers.
    pair = _pair_for(view)
    known = pair[1] in view.template or pair[0] in view.single_tokens
    return _tags(pair, view, "model") if known else None


def _harmony(_: TemplateView) -> ThinkingFormat:
    return ThinkingFormat(
        name="harmony",
        opener_mark=_HARMONY_ANALYSIS,
        answer_mark=_HARMONY_FINAL,
        opened_by="model",
        opener=_HARMONY_ANALYSIS,
        closer=f"<|end|><|start|>assistant{_HARMONY_FINAL}",
        off_prefill=_HARMONY_FINAL,
        headless="trace",
        noise=(
            "<|end|><|start|>assistant",
            "<|end|>",
            "<|start|>assistant",
            _HARMONY_ANALYSIS,
            "<|channel|>commentary<|message|>",
        ),
        end_marks=("<|return|>", "<|end|>"),
    )


def _recognise_harmony(view: TemplateView) -> ThinkingFormat | None:
    if "<|channel|>" in view.template and view.rendered.endswith("<|start|>assistant"):
        return _harmony(view)
    return None


BUILTIN_FAMILIES: tuple[FormatFamily, ...] = (
    FormatFamily(name="harmony", recognise=_recognise_harmony, make=_harmony, priority=30),
    FormatFamily(
        name="template-tags",
        recognise=_recognise_template_tags,
        make=lambda view: _tags(_pair_for(view), view, "template"),
        priority=20,
    ),
    FormatFamily(
        name="tags",
        recognise=_recognise_tags,
        make=lambda view: _tags(_pair_for(view), view, "model"),
        priority=10,
    ),
    FormatFamily(
        name="none", recognise=lambda _: NO_FORMAT, make=lambda _: NO_FORMAT, priority=-100
    ),
)


@hookimpl
def register_formats(register: Register) -> None:
    """Register the families above."""
    for family in BUILTIN_FAMILIES:
        register(family)


def choose_format(
    families: Iterable[FormatFamily], view: TemplateView, name: str = ""
) -> ThinkingFormat:
    """Choose the format of a model, once, from its rendered chat template.

    Args:
        families: Every registered family.
        view: What the backend can show of the template.
        name: An explicit choice (``-M format=NAME``), or '' to recognise it.

    Raises:
        UnknownName: No family has that name.
        ConfigError: No family recognises the template (cannot happen with the built-ins).
    """
    ordered = sorted(families, key=lambda family: (-family.priority, family.name))
    if name:
        for family in ordered:
            if family.name == name:
                return family.make(view)
        raise UnknownName("format", name, (family.name for family in ordered))
    for family in ordered:
        if (found := family.recognise(view)) is not None:
            return found
    raise ConfigError("no thinking format fits the chat template", hint="pass -M format=none")


class Opening(Struct, frozen=True, kw_only=True):
    """How one request starts, once format and mode are known.

    Attributes:
        format: The format that the completion is parsed with.
        template_kwargs: Arguments for the chat template.
        prefill: Text that follows the rendered prompt.
        opened: Whether the completion starts inside a trace ...
        closed: ... or behind one that is closed already, and so with the answer.
    """

    format: ThinkingFormat
    template_kwargs: dict[str, Any] = {}
    prefill: str = ""
    opened: bool = False
    closed: bool = False


def opening(fmt: ThinkingFormat, mode: ThinkingMode) -> Opening:
    """Say how a request is opened in a thinking mode.

    'forced' opens a trace for every model, with the family's own opener where it has one and
    with plain think tags where it has none. 'off' uses the family's switch, else its prefill.
    """
    if mode == "off" and fmt.thinks:
        return Opening(
            format=fmt,
            template_kwargs=dict(fmt.off_kwargs),
            prefill=fmt.off_prefill,
            closed=True,
        )
    if mode == "forced" and not fmt.thinks:
        return Opening(format=FORCED_TAGS, prefill=FORCED_TAGS.opener, opened=True)
    if mode == "forced" and fmt.opened_by == "model":
        return Opening(format=fmt, prefill=fmt.opener, opened=True)
    return Opening(format=fmt, opened=fmt.opened_by == "template")


def replay_prefill(fmt: ThinkingFormat, mode: ThinkingMode) -> str:
    """Text between the rendered prompt and the first token of a recorded trace.

    A probe that continues a recorded trace puts this, then the trace's token ids.
    """
    start = opening(fmt, mode)
    if start.opened:
        return start.prefill
    return start.format.opener_mark


def known_marks() -> tuple[str, ...]:
    """Every mark that a backend should look up in its vocabulary for :class:`TemplateView`."""
    return tuple(mark for pair in TAG_PAIRS for mark in pair)
