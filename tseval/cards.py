"""Benchmark cards and suites: what a YAML file says about a benchmark, checked on load.

A card is all there is to a plain prompt benchmark: where its rows come from, which of their
columns matter, what is measured on them, and what the rows must look like.
"""

import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from .errors import ConfigError

Kind = Literal["harmful", "benign", "mixed", "reasoning"]
PromptClass = Literal["harmful", "benign"]
Name = Annotated[str, Meta(pattern="^[a-z][a-z0-9_]*$")]
SuiteName = Annotated[str, Meta(pattern="^[a-z][a-z0-9_-]*$")]
Text = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=1)]

SUITES_FILE = "suites.yaml"
_HINT = "the docstrings in tseval/cards.py say what each field means"

T = TypeVar("T")


class Columns(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which columns of a row mean what.

    Attributes:
        prompt: Column of the prompt; a list that holds one text counts as that text.
        context: Column of a text that belongs before the prompt, or ''. Rows that lack it, or
            have it empty, are asked as they are.
        layout: How context and prompt become one text.
        id: Column of the row id, or ''. Without it ids are made from the prompts, so that they
            are the same wherever the rows came from.
        group: Column that says which part of the benchmark a row belongs to, or ''.
        label: Column that says whether a row is harmful (see ``BenchmarkCard.labels``), or ''.
        cluster: Column whose equal values mark variants of one prompt, or ''.
        tags: Further columns that reports may show; missing ones are no error.
        answer: Column of the right answer, or ''. Of a choice it holds the number counted from 0,
            the letter (a single capital letter is one), or the text; for instructions, the column
            of the instructions' names.
        choices: Columns of the possible answers: one that holds a list, or one for each.
        details: Columns that the checker is given with the answer, as one JSON object.
    """

    prompt: Text = "prompt"
    context: str = ""
    layout: str = "{context}\n\n---\n\n{prompt}"
    id: str = ""
    group: str = ""
    label: str = ""
    cluster: str = ""
    tags: tuple[str, ...] = ()
    answer: str = ""
    choices: tuple[str, ...] = ()
    details: tuple[str, ...] = ()

    def required(self) -> tuple[str, ...]:
        """Return the columns that a file must have for this mapping to fit it."""
        named = (self.prompt, self.id, self.group, self.label, self.cluster, self.answer)
        return tuple(c for c in (*named, *self.choices, *self.details) if c)


class Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of a hub dataset.

    Attributes:
        config: Configuration ('subset') name, or ''.
        split: Split name.
        files: Files of the dataset repository, where it has no configurations of its own.
        group: Group that all its rows belong to, or ''.
    """

    config: str = ""
    split: Text = "train"
    files: tuple[str, ...] = ()
    group: str = ""


class Source(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the rows come from: exactly one of ``hub``, ``url`` and ``file`` is set.

    Attributes:
        hub: Dataset id on the hub.
        url: Address of a JSON file, for datasets that are on no hub.
        package, file: A JSONL file inside an installed package.
        revision: Commit of the hub dataset; '' follows its main branch.
        gated: Whether its owner has to grant access.
        access: Page where access is asked for.
        parts: The hub dataset's tables, read in this order.
        options: Options for the reader of ``datasets`` (delimiter, header ...).
        columns: Columns as the source names them.
    """

    hub: str = ""
    url: str = ""
    package: str = ""
    file: str = ""
    revision: str = ""
    gated: bool = False
    access: str = ""
    parts: tuple[Part, ...] = (Part(),)
    options: dict[str, str | int | bool | list[str] | None] = {}
    columns: Columns = Columns()


class AnswerSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a question is asked, and its answer checked; for kind 'reasoning'.

    Attributes:
        checker: Module that checks answers: it has ``VERSION``, ``check`` and ``classes`` (see
            docs/how-to/add-a-benchmark.md).
        template: The prompt; holds {question}, and {choices} where there are any.
        reference_after: The right answer is what follows the last such mark in its column, or ''.
        shuffle: Whether choices are put in an order that depends on the row alone, so that no
            letter is right more often than chance has it.
    """

    checker: Annotated[str, Meta(pattern=r"^[A-Za-z_][\w.]*$")]
    template: Text = "{question}"
    reference_after: str = ""
    shuffle: bool = False


class BenchmarkCard(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a prompt benchmark is.

    Attributes:
        name: Registered name; the card's file has the same.
        title: Name as its authors write it.
        kind: Whether its prompts are harmful, benign, some of each, or questions with a right
            answer ('reasoning').
        summary: One line for ``tseval ls benchmarks``.
        metrics: Metric names; each is computed on the prompts that it is about.
        source: Where the rows come from.
        local: Columns of a file in a ``--data-dir``, tried in order and before the source's
            own: the first mapping whose columns are all there is taken.
        where: Rows to keep: column to accepted value or values. A column that a local file
            does not have is taken as filtered already.
        labels: Value of the label column to what it means; for kind 'mixed'.
        groups: Parts that are also reported apart; if given, each row belongs to one.
        suite_average: Which prompts enter a suite's averages; None means all of them.
        expected_rows: Rows after filtering.
        content_hash: See ``tseval.data.content_hash``; '' if nobody could look at the rows.
        licence, paper: Of the data.
        default_judge: Judge unless told otherwise.
        answer_tokens: Most tokens of the answer, behind the trace if there is one.
        answer: How answers are asked for and checked; for kind 'reasoning'.
        version: Changes whenever the card could change a number.
        note: What a user of the numbers has to know; says what could not be verified.
    """

    name: Name
    title: Text
    kind: Kind
    summary: Text
    metrics: Annotated[tuple[str, ...], Meta(min_length=1)]
    source: Source
    local: tuple[Columns, ...] = (Columns(),)
    where: dict[str, str | tuple[str, ...]] = {}
    labels: dict[str, PromptClass] = {}
    groups: tuple[str, ...] = ()
    suite_average: tuple[PromptClass, ...] | None = None
    expected_rows: Count
    content_hash: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""
    licence: Text
    paper: Text
    default_judge: Text = "refusal-rules"
    answer_tokens: Count = 1024
    answer: AnswerSpec | None = None
    version: Text = "1"
    note: str = ""

    def averages(self, *, harmful: bool) -> bool:
        """Say whether the harmful (or benign) prompts enter a suite's averages."""
        wanted: PromptClass = "harmful" if harmful else "benign"
        return self.suite_average is None or wanted in self.suite_average

    def mappings(self) -> tuple[Columns, ...]:
        """Return the column mappings for a local file, in the order they are tried."""
        return (*self.local, self.source.columns)


class ProbeCard(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a probe is: a benchmark that measures how a model gets to its answer.

    Attributes:
        name: Registered name.
        title: Heading of its part of a report.
        summary: One line for ``tseval ls benchmarks``.
        metrics: Names of the ``MeasureSpec`` records of its scores.
        needs: Capabilities of the backend that it cannot do without.
        stances: Whether it has traces labelled by the run's stance judges.
        paper: Where the method comes from.
        version: Changes whenever a number could.
        note: What a user of the numbers has to know.
    """

    name: Name
    title: Text
    summary: Text
    metrics: Annotated[tuple[str, ...], Meta(min_length=1)]
    needs: tuple[str, ...] = ()
    stances: bool = False
    paper: Text = "arXiv 2606.25013"
    version: Text = "1"
    note: str = ""


class Suite(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Benchmarks that are run together.

    Attributes:
        name: Registered name.
        title: Heading of its table.
        summary: One line for ``tseval ls suites``.
        benchmarks: Benchmark names, in the order of the table.
        note: Why these, where that is not plain.
    """

    name: SuiteName
    title: Text
    summary: Text
    benchmarks: Annotated[tuple[str, ...], Meta(min_length=1)]
    note: str = ""


class Catalogue(Struct, frozen=True, kw_only=True):
    """The cards and suites of one package, each sorted by name."""

    cards: tuple[BenchmarkCard, ...]
    suites: tuple[Suite, ...]


class _SuitesFile(Struct, frozen=True, forbid_unknown_fields=True):
    suites: tuple[Suite, ...]


def load_card(text: str | bytes, origin: str) -> BenchmarkCard:
    """Read and check a card.

    Args:
        text: The YAML text.
        origin: What messages call it: a path, or package and file.

    Returns:
        A card that is consistent in itself.

    Raises:
        ConfigError: Not YAML, an unknown, missing or wrong field, or fields that contradict
            each other; the message names origin and field.
    """
    card = _decode(text, origin, BenchmarkCard)
    problem = next(_problems(card), None)
    if problem is not None:
        raise ConfigError(f"{origin}, field '{problem[0]}': {problem[1]}", hint=_HINT)
    return card


def load_suites(text: str | bytes, origin: str) -> tuple[Suite, ...]:
    """Read and check a file of suites; the arguments and errors are those of load_card."""
    suites = _decode(text, origin, _SuitesFile).suites
    for index, suite in enumerate(suites):
        if len(set(suite.benchmarks)) < len(suite.benchmarks):
            raise ConfigError(
                f"{origin}, field 'suites[{index}].benchmarks': names a benchmark twice",
                hint="each benchmark of a suite is run once; remove the repetition",
            )
    return suites


def read_catalogue(package: str) -> Catalogue:
    """Read all cards and suites that a package holds.

    Cards are the ``*.yaml`` files of the package and, one level down, of its sub-folders; a
    card's file is named after the benchmark. Suites are in ``suites.yaml`` of the package.

    Args:
        package: Importable name, such as 'tseval.benchmarks'.

    Raises:
        ConfigError: A card or suite that is wrong, misnamed, or there twice.
    """
    cards: dict[str, tuple[BenchmarkCard, str]] = {}
    suites: tuple[Suite, ...] = ()
    for origin, file in _yaml_files(files(package)):
        if origin == SUITES_FILE:
            suites = load_suites(file.read_bytes(), origin)
            continue
        card = load_card(file.read_bytes(), origin)
        if f"{card.name}.yaml" != file.name:
            raise ConfigError(
                f"{origin}, field 'name': '{card.name}' is not the name of its file",
                hint=f"call the file {card.name}.yaml, so that a benchmark is found by its name",
            )
        if card.name in cards:
            raise ConfigError(
                f"benchmark '{card.name}' has two cards: {cards[card.name][1]} and {origin}",
                hint="rename one of them",
            )
        cards[card.name] = (card, origin)
    return Catalogue(
        cards=tuple(cards[name][0] for name in sorted(cards)),
        suites=tuple(sorted(suites, key=lambda suite: suite.name)),
    )


def _yaml_files(root: Traversable) -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(root.iterdir(), key=lambda item: item.name):
        if entry.name.endswith(".yaml"):
            yield entry.name, entry
        elif entry.is_dir() and not entry.name.startswith(("_", ".")):
            for file in sorted(entry.iterdir(), key=lambda item: item.name):
                if file.name.endswith(".yaml"):
                    yield f"{entry.name}/{file.name}", file


def _decode(text: str | bytes, origin: str, kind: type[T]) -> T:
    try:
        return msgspec.yaml.decode(text, type=kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `")
        field = where.rstrip("`").removeprefix("$").removeprefix(".") or "(top level)"
        what = re.sub(r"`([^`]*)`", r"'\1'", what)
        raise ConfigError(
            f"{origin}, field '{field}': {what[0].lower() + what[1:]}",
            hint=_HINT,
        ) from None
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"{origin}: not YAML: {' '.join(str(error).split())}",
            hint="quote values that hold ': ', '#' or leading '{', '[', '*'",
        ) from None


def _problems(card: BenchmarkCard) -> Iterator[tuple[str, str]]:
    """Yield (field, what is wrong with it) for fields that contradict each other."""
    source = card.source
    given = [name for name in ("hub", "url", "file") if getattr(source, name)]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        yield "source", f"expected exactly one of hub, url and file, found {found}"
    if bool(source.file) != bool(source.package):
        yield "source.package", "a file inside a package needs both 'package' and 'file'"
    if source.gated and not source.access:
        yield "source.access", "a gated dataset needs the page where access is asked for"
    if (card.kind == "reasoning") != (card.answer is not None):
        yield "answer", "needed for kind 'reasoning', and only there"
    if card.answer is not None:
        yield from _answer_problems(card, card.answer)
    if (card.kind == "mixed") != bool(card.labels):
        yield "labels", "needed for kind 'mixed', and only there"
    if card.kind == "mixed" and card.suite_average is None:
        yield "suite_average", "kind 'mixed' has to say which prompts enter a suite's averages"
    if not card.content_hash and not card.note:
        yield "note", "has to say why there is no content_hash"
    mappings = card.mappings()
    if card.labels and not all(columns.label for columns in mappings):
        yield "labels", "every column mapping needs a 'label' column"
    if len({bool(columns.id) for columns in mappings}) > 1:
        # Row ids, and with them pairs between runs, would depend on where the rows came from.
        yield "local", "either every column mapping has an 'id' column, or none has"
    for columns in mappings:
        if "{context}" not in columns.layout or "{prompt}" not in columns.layout:
            yield "layout", "has to hold both {context} and {prompt}"
    for index, part in enumerate(source.parts):
        if part.group and part.group not in card.groups:
            yield f"source.parts[{index}].group", f"'{part.group}' is not among 'groups'"


def _answer_problems(card: BenchmarkCard, answer: AnswerSpec) -> Iterator[tuple[str, str]]:
    mappings = card.mappings()
    if not all(columns.answer for columns in mappings):
        yield "answer", "every column mapping needs an 'answer' column"
    if "{question}" not in answer.template:
        yield "answer.template", "has to hold {question}"
    if len({bool(columns.choices) for columns in mappings}) > 1:
        yield "local", "either every column mapping has 'choices', or none has"
    if bool(mappings[0].choices) != ("{choices}" in answer.template):
        yield "answer.template", "has to hold {choices} where there are any, and only there"
