"""Prompts to train on: read from their sources, told apart by kind, kept apart from evaluation."""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from msgspec import Struct

from tseval.cards import BenchmarkCard, Columns, Source
from tseval.data import load_rows, prompt_key
from tseval.errors import ConfigError, DataError
from tseval.hub import fetch
from tseval.tables import SUFFIXES, RawRow, find_file, read_file
from tseval.tables import kind as sort_of

from .apart import asked_texts, drop_near_duplicates
from .records import Prompt, PromptKind, Recipe

if TYPE_CHECKING:
    from tseval.plugins import Registry

PROMPT_FIELDS = ("prompt", "question", "instruction")
LABEL_FIELDS = ("label", "kind")
KINDS: tuple[PromptKind, ...] = get_args(PromptKind)

# Why a prompt is not trained on.
NEAR = "near-duplicate of an evaluated prompt"
TWICE = "the same prompt twice"
BOTH = "harmful in one source and benign in another"

# Source: arXiv 2502.12025. 40,000 rows: instruction, label (vanilla or adversarial, harmful or
# benign), and the response of a teacher, of which only trainers that take teachers make use.
SAFECHAIN = BenchmarkCard(
    name="safechain",
    title="SafeChain",
    kind="mixed",
    summary="prompts to train on, harmful and benign, vanilla and adversarial",
    metrics=("asr_harmful", "orr"),
    source=Source(hub="UWNSL/SafeChain", columns=Columns(prompt="instruction", label="label")),
    expected_rows=40000,
    licence="see the dataset's page",
    paper="arXiv 2502.12025",
    default_judge="llama-guard-3",
)

_LETTERS = re.compile(r"[a-z]+")
_HARMFUL = frozenset({"harmful", "unsafe"})
_BENIGN = frozenset({"benign", "harmless", "unharmful", "nonharmful", "safe"})
_NOT = frozenset({"not", "non", "no"})


class Prompts(Struct, frozen=True, kw_only=True):
    """Prompts to train on.

    Attributes:
        prompts: Harmful ones first, each kind in an order that depends on texts and seed alone.
        dropped: Prompts of the sources that are not among them, by reason.
        notes: What is odd about the sources.
    """

    prompts: tuple[Prompt, ...]
    dropped: dict[str, int] = {}
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[PromptKind, int]:
        """Prompts of each kind."""
        found = Counter(prompt.kind for prompt in self.prompts)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def of(self, kind: PromptKind) -> tuple[Prompt, ...]:
        """The prompts of one kind."""
        return tuple(prompt for prompt in self.prompts if prompt.kind == kind)


def read_prompts(
    recipe: Recipe,
    registry: "Registry",
    *,
    evaluated: Iterable[str] = (),
    kinds: Sequence[PromptKind] = KINDS,
) -> Prompts:
    """Read a recipe's prompts; blocks, and may ask the hub.

    Each text is there once. What nearly equals an evaluated prompt is dropped before a kind is
    cut to its size, so that a cap is met wherever the sources suffice.

    Args:
        recipe: Names sources, caps, seed, and by ``-T exclude`` what must not be trained on.
        registry: Knows the benchmarks.
        evaluated: Prompts that the panel asks.
        kinds: Those that the trainer takes.

    Raises:
        ConfigError: A source that does not exist, or has no prompt of its kind; or none of a
            kind is left, since all are evaluated or left out by ``-T exclude``.
        DataError: Rows that cannot be read, or lack a needed field.
    """
    notes: list[str] = []
    found: list[Prompt] = []
    for each in kinds:
        for source in recipe.harmful if each == "harmful" else recipe.benign:
            found += _of_source(source, each, recipe, registry, notes)
    chosen, dropped = choose(found, recipe, registry, evaluated)
    caps = {"harmful": recipe.max_harmful, "benign": recipe.max_benign}
    for kind in {prompt.kind for prompt in found} - {prompt.kind for prompt in chosen}:
        if caps[kind] == 0:
            continue
        shown = ", ".join(f"{n} {why}" for why, n in dropped.items())
        raise ConfigError(
            f"no {kind} prompt is left to train on ({shown})",
            hint=f"give --{kind} prompts that neither --eval-suite asks nor -T exclude names",
        )
    return Prompts(prompts=chosen, dropped=dropped, notes=tuple(dict.fromkeys(notes)))


def choose(
    prompts: Iterable[Prompt], recipe: Recipe, registry: "Registry", evaluated: Iterable[str]
) -> tuple[tuple[Prompt, ...], dict[str, int]]:
    """Keep each text once, drop what is evaluated, and cut each kind to its size.

    Arguments and errors are those of :func:`read_prompts`.

    Returns:
        What is left, harmful prompts first, and how many are not, by reason.
    """
    prompts = list(prompts)
    chosen, fates = sift(prompts, recipe, registry, evaluated)
    copies = Counter(prompt_key(prompt.text) for prompt in prompts)
    dropped = Counter({TWICE: sum(n - 1 for key, n in copies.items() if fates.get(key) != BOTH)})
    for key, why in fates.items():
        dropped[why] += copies[key] if why == BOTH else 1
    return chosen, {why: n for why, n in dropped.items() if n}


def sift(
    prompts: Iterable[Prompt], recipe: Recipe, registry: "Registry", evaluated: Iterable[str]
) -> tuple[tuple[Prompt, ...], dict[str, str]]:
    """Choose prompts as :func:`choose` does, and say of every other text why it is not taken.

    Returns:
        What is left, harmful prompts first; and the reason of each other text, by its
        ``tseval.data.prompt_key``.
    """
    once, fates = _once(prompts)
    kept, _ = drop_near_duplicates(once, (*evaluated, *excluded(recipe, registry)))
    apart = set(kept)
    fates |= {prompt_key(prompt.text): NEAR for prompt in once if prompt not in apart}
    chosen: list[Prompt] = []
    for each in KINDS:
        cap = recipe.max_harmful if each == "harmful" else recipe.max_benign
        ranked = _ranked((prompt for prompt in kept if prompt.kind == each), recipe.seed)
        cut = len(ranked) if cap is None else cap
        chosen += ranked[:cut]
        fates |= {prompt_key(prompt.text): f"beyond --max-{each}" for prompt in ranked[cut:]}
    return tuple(chosen), fates


def excluded(recipe: Recipe, registry: "Registry") -> list[str]:
    """Read the prompts that ``-T exclude`` keeps out: benchmarks, the first N of one, files.

    'advbench:100+xstest' are the rows of ``tseval run --benchmark advbench --limit 100``, under
    its default subset, and all of XSTest.

    Raises:
        ConfigError, DataError: As :func:`read_prompts`.
    """
    found: list[str] = []
    for source, most in excluded_sources(recipe):
        if is_file(source):
            found += [text_of(row, PROMPT_FIELDS) for row in rows_of(source)][:most]
        else:
            rows = load_rows(_card(source, registry), recipe.data_dirs)
            found += asked_texts(rows.samples[:most])
    return found


def excluded_sources(recipe: Recipe) -> list[tuple[str, int | None]]:
    """Name the sources of ``-T exclude``, each with how many of its rows; None: all.

    Raises:
        ConfigError: It takes no row of one.
    """
    found: list[tuple[str, int | None]] = []
    for part in filter(None, recipe.options.get("exclude", "").split("+")):
        name, colon, number = part.rpartition(":")
        limited = bool(colon) and number.isdigit()
        if limited and int(number) < 1:
            raise ConfigError(f"-T exclude={part} takes no row", hint="NAME:N, or NAME for all")
        found.append((name, int(number)) if limited else (part, None))
    return found


def prompt_of(text: str, kind: PromptKind, source: str, cluster: str = "") -> Prompt:
    """Make a prompt of a text that is NFC-normalised and stripped."""
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Prompt(id=key, text=text, kind=kind, source=source, cluster=cluster)


def kind_of(label: str) -> PromptKind | None:
    """Read a label such as 'vanilla_harmful', 'unsafe' or 'not harmful'; None if it says neither.

    A label that says both says neither.
    """
    words = _LETTERS.findall(label.casefold())
    said: set[PromptKind] = set()
    for before, word in zip(["", *words], words, strict=False):
        if word in _HARMFUL:
            said.add("benign" if before in _NOT else "harmful")
        elif word in _BENIGN:
            said.add("harmful" if before in _NOT else "benign")
    return said.pop() if len(said) == 1 else None


def label_of(row: RawRow) -> PromptKind | None:
    """Say what a row's own label makes it; None where it has no label.

    Raises:
        DataError: A label that says neither 'harmful' nor 'benign'.
    """
    name = next((each for each in LABEL_FIELDS if each in row.fields), None)
    if name is None:
        return None
    found = kind_of(str(row.fields[name]))
    if found is None:
        raise DataError(
            f"{row.place}, field '{name}': {str(row.fields[name])[:40]!r} says neither harmful"
            " nor benign",
            hint="label rows 'harmful' or 'benign', or leave the field out",
        )
    return found


def text_of(row: RawRow, names: Sequence[str]) -> str:
    """Return the first of these fields that a row has, NFC-normalised and stripped.

    Raises:
        DataError: It has none of them, or no text there.
    """
    name = next((each for each in names if each in row.fields), None)
    if name is None:
        shown = ", ".join(map(str, row.fields)) or "none"
        raise DataError(
            f"{row.place}: no field {' or '.join(map(repr, names))} (found: {shown})",
            hint=f"rename the field with the text to {names[0]!r}",
        )
    value = row.fields[name]
    where = f"{row.place}, field '{name}'"
    if not isinstance(value, str):
        raise DataError(
            f"{where}: expected a text, found {sort_of(value)}",
            hint="correct the row, or remove it",
        )
    text = unicodedata.normalize("NFC", value).strip()
    if not text or not _is_text(text):
        raise DataError(f"{where}: holds no text", hint="correct the row, or remove it")
    return text


def is_file(source: str) -> bool:
    """Whether a source is a file rather than a name."""
    return source.endswith(SUFFIXES) or Path(source).expanduser().is_file()


def rows_of(source: str) -> Iterator[RawRow]:
    """Read the rows of a file.

    Raises:
        ConfigError: There is none.
        DataError: It cannot be read.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        raise ConfigError(f"no file {source}", hint="name a JSON Lines file that exists")
    yield from read_file(path)


def safechain_rows(data_dirs: Sequence[str]) -> Iterator[RawRow]:
    """Read SafeChain: ``safechain.jsonl|csv|parquet`` of a local mirror, else from the hub.

    Raises:
        DataError: Neither can be had.
    """
    folders = [Path(folder) for folder in data_dirs]
    local = find_file(SAFECHAIN.name, folders)
    yield from read_file(local) if local is not None else fetch(SAFECHAIN, folders).rows


def _of_source(
    source: str, kind: PromptKind, recipe: Recipe, registry: "Registry", notes: list[str]
) -> list[Prompt]:
    """Read the prompts of one kind from one source."""
    clusters: dict[str, str] = {}
    if source == SAFECHAIN.name:
        texts = _of_safechain(kind, recipe.data_dirs, notes)
    elif is_file(source):
        texts = [
            text_of(row, PROMPT_FIELDS)
            for row in rows_of(source)
            if (label_of(row) or kind) == kind
        ]
    else:
        loaded = load_rows(_card(source, registry), recipe.data_dirs)
        notes.extend(loaded.warnings)
        # Questions with a right answer are of neither class, and harmless.
        mine = [s for s in loaded.samples if bool(s.harmful) is (kind == "harmful")]
        texts = [sample.prompt for sample in mine]
        clusters = {sample.prompt: sample.tags.get("cluster", "") for sample in mine}
    if not texts:
        raise ConfigError(f"{source} has no {kind} prompts", hint=f"give another --{kind}")
    return [prompt_of(text, kind, source, clusters.get(text, "")) for text in texts]


def _of_safechain(kind: PromptKind, data_dirs: Sequence[str], notes: list[str]) -> list[str]:
    """Read the prompts of one kind; a row that is of neither is left out, and counted in a note."""
    texts, unlabelled = [], 0
    for row in safechain_rows(data_dirs):
        found = kind_of(str(row.fields.get("label", "")))
        unlabelled += found is None
        if found == kind:
            texts.append(text_of(row, ("instruction", *PROMPT_FIELDS)))
    if unlabelled:
        notes.append(
            f"safechain: {unlabelled} rows are left out, whose label says neither harmful nor"
            " benign"
        )
    return texts


def _card(name: str, registry: "Registry") -> BenchmarkCard:
    card = registry.benchmarks[name].card
    if not isinstance(card, BenchmarkCard):
        raise ConfigError(
            f"benchmark {name!r} holds no prompts to train on",
            hint="give a benchmark of prompts, 'safechain', or a JSON Lines file",
        )
    return card


def _once(prompts: Iterable[Prompt]) -> tuple[list[Prompt], dict[str, str]]:
    """Keep each text once, with its cluster if a copy has one; of both kinds it is kept as none."""
    groups: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        groups[prompt_key(prompt.text)].append(prompt)
    both = [key for key, group in groups.items() if len({prompt.kind for prompt in group}) > 1]
    fates = dict.fromkeys(both, BOTH)
    kept = [
        max(group, key=lambda prompt: bool(prompt.cluster))
        for key, group in groups.items()
        if key not in fates
    ]
    return kept, fates


def _ranked(prompts: Iterable[Prompt], seed: int) -> list[Prompt]:
    """Order by a hash of seed and text, so that a smaller cap takes a subset."""
    return sorted(prompts, key=lambda p: hashlib.sha256(f"{seed}\0{p.id}".encode()).hexdigest())


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
