"""The generated pages of what ships: benchmarks, judges, probes, and everything else by name."""

import importlib
import inspect
from typing import Any

import prose as md

from tseval.cards import BenchmarkCard, ProbeCard, Source
from tseval.plugins import Registry
from tseval.probes.sizes import SIZES
from tseval.protocol import PRESETS

_DIRECTIONS = {True: "higher", False: "lower", None: "neither"}


def benchmarks(registry: Registry) -> str:
    """Suites, a table of all cards, then a section for each."""
    cards = {
        name: card
        for name, card in _cards(registry).items()
        if not isinstance(card, ProbeCard) and hasattr(card, "source")
    }
    suites = [registry.suites[name] for name in sorted(registry.suites)]
    parts = [
        "## Suites",
        md.table(
            ("suite", "benchmarks", "what"),
            (
                (md.code(s.name), ", ".join(map(md.code, s.benchmarks)), md.cell(s.summary))
                for s in suites
            ),
        ),
        *(f"**{suite.name}.** {md.inline(suite.note)}" for suite in suites if suite.note),
        "## All benchmarks",
        md.table(
            ("benchmark", "kind", "rows", "metrics", "judge", "gated", "licence", "paper"),
            (
                (
                    f"[{card.name}](#{card.name})",
                    card.kind,
                    f"{card.expected_rows:,}",
                    ", ".join(map(md.code, card.metrics)),
                    md.code(card.answer.checker if card.answer else card.default_judge),
                    "yes" if card.source.gated else "no",
                    md.cell(card.licence),
                    md.cell(card.paper),
                )
                for card in cards.values()
            ),
        ),
        "The [probes](probes.md) are benchmarks too, and so is each task of "
        "lm-evaluation-harness, as `lm-eval/NAME`.",
        *(_benchmark(card) for card in cards.values()),
    ]
    return "\n\n".join(parts)


def _benchmark(card: BenchmarkCard) -> str:
    facts = {
        "Rows from": _source(card.source),
        "Access": f"gated: asked for at <{card.source.access}>" if card.source.gated else "",
        "Local file": f"`{card.name}.jsonl`, `.csv` or `.parquet` in a `--data-dir`, with "
        + " or ".join(
            ", ".join(map(md.code, mapping.required()))
            for mapping in dict.fromkeys(card.mappings())
        ),
        "Rows": f"{card.expected_rows:,}"
        + (f", content hash {md.code(card.content_hash[:16])}" if card.content_hash else ""),
        "Metrics": ", ".join(map(md.code, card.metrics)),
        "Groups": ", ".join(map(md.code, card.groups)),
        "Judge": md.code(card.answer.checker if card.answer else card.default_judge),
        "Answer": f"at most {card.answer_tokens:,} tokens",
        "Licence": md.cell(card.licence),
        "Paper": md.cell(card.paper),
        "Version of the card": card.version,
    }
    lines = [f"- **{name}**: {value}" for name, value in facts.items() if value]
    parts = [f"### {card.name}", f"{md.inline(card.title)}. {md.inline(card.summary)}."]
    return "\n\n".join([*parts, "\n".join(lines), md.inline(card.note)]).rstrip()


def _source(source: Source) -> str:
    if source.hub:
        pinned = f"at {md.code(source.revision[:12])}" if source.revision else "not pinned"
        return f"[{source.hub}](https://huggingface.co/datasets/{source.hub}), {pinned}"
    if source.url:
        return f"<{source.url}>"
    return f"{md.code(source.file)}, ships with {md.code(source.package)}"


def judges(registry: Registry) -> str:
    """A table of all judges, then what each module says of its own."""
    cards = {name: registry.judges[name].card for name in sorted(registry.judges)}
    stances = {name: registry.stance_judges[name] for name in sorted(registry.stance_judges)}
    modules = {
        type(judge).__module__
        for judge in (*map(registry.judges.__getitem__, cards), *stances.values())
    }
    # Panels are data of an engine's class; their module is the one that registers them.
    shown = sorted(m for m in modules | {"tseval.judges.panels"} if m.startswith("tseval.judges."))
    parts = [
        "## All judges",
        md.table(
            ("judge", "labels", "sees", "asked", "model", "version", "licence", "paper"),
            (
                (
                    md.code(name) + (f" ({md.code(card.alias_of)})" if card.alias_of else ""),
                    ", ".join(card.labels),
                    card.sees,
                    " or ".join(card.asked) if card.model else "",
                    md.code(card.model),
                    card.version,
                    md.cell(card.licence),
                    md.cell(card.paper),
                )
                for name, card in cards.items()
            ),
        ),
        "## Stance judges",
        md.table(
            ("judge", "version", "validated", "what"),
            (
                (
                    md.code(name),
                    each.card.version,
                    each.validated or "no",
                    md.cell(each.card.summary),
                )
                for name, each in stances.items()
            ),
        ),
        "## What each does",
        *(
            f"### {each.__name__.rpartition('.')[2]}\n\n{md.docstring(each.__doc__)}"
            for each in map(importlib.import_module, shown)
        ),
    ]
    return "\n\n".join(parts)


def probes(registry: Registry) -> str:
    """Sizes by scale, then a section for each probe with its measures, then all measures."""
    cards = {n: c for n, c in _cards(registry).items() if isinstance(c, ProbeCard)}
    fields = [name for name in next(iter(SIZES.values())).__struct_fields__ if name != "scale"]
    parts = [
        "## Sizes",
        md.table(
            ("size", *(f"`--scale {name}`" for name in SIZES)),
            (
                (md.code(field), *(_size(getattr(sizes, field)) for sizes in SIZES.values()))
                for field in fields
            ),
        ),
        md.docstring(next(iter(SIZES.values())).__doc__),
    ]
    for name, card in cards.items():
        module = inspect.getmodule(type(registry.benchmarks[name]))
        facts = {
            "Headline": ", ".join(map(md.code, card.metrics)),
            "Needs": ", ".join(map(md.code, card.needs)),
            "Stance judge": "yes" if card.stances else "",
            "Paper": md.cell(card.paper),
            "Version": card.version,
            "Note": md.inline(card.note),
        }
        lines = [f"- **{key}**: {value}" for key, value in facts.items() if value]
        parts += [f"## {name}", md.docstring(module.__doc__ if module else ""), "\n".join(lines)]
    measures = [m for m in _all(registry.metrics) if m.on == "probe"]
    parts += ["## All measures", _metrics(measures)]
    return "\n\n".join(parts)


def _size(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(str(each) for each in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def others(registry: Registry) -> str:
    """Backends, metrics, protocols, interventions, trainers, exporters, boards."""
    rates = [metric for metric in _all(registry.metrics) if metric.on != "probe"]
    parts = ["## Backends"]
    for factory in _all(registry.backends):
        can = [
            n for n in factory.capabilities.__struct_fields__ if getattr(factory.capabilities, n)
        ]
        parts += [
            f"### {factory.name}",
            f"{md.inline(factory.summary)}. Can: {', '.join(map(md.code, can))}.",
            _options("-M", factory.options),
        ]
    parts += ["## Metrics", _metrics(rates), "## Protocols"]
    presets = [(md.code(p.name), md.cell(p.summary)) for p in PRESETS.values()]
    parts += [md.table(("protocol", "what"), presets), "## Interventions"]
    for each in _all(registry.interventions):
        defaults = {k: repr(v).strip("'") for k, v in getattr(each, "options", {}).items()}
        parts += [
            f"### {each.name}",
            md.docstring(inspect.getdoc(type(each))),
            _options("option", defaults, meaning="default"),
        ]
    parts.append("## Trainers")
    for trainer in _all(registry.trainers):
        card = trainer.card
        about = f"{md.inline(card.summary)} ({card.paper}; version {card.version})."
        about += f" Takes: {', '.join(card.takes)}."
        parts += [f"### {card.name}", about, _options("-T", card.options)]
    for kind in ("exporters", "formats"):
        rows = [
            (md.code(name), md.cell(getattr(registry.__getattr__(kind)[name], "summary", "")))
            for name in sorted(registry.__getattr__(kind))
        ]
        parts += [f"## {kind.title()}", md.table((kind[:-1], "what"), rows)]
    return "\n\n".join(filter(None, parts))


def _options(flag: str, options: dict[str, str], meaning: str = "meaning") -> str:
    rows = [(md.code(name), md.cell(text)) for name, text in options.items()]
    return md.table((flag, meaning), rows) if rows else ""


def _metrics(metrics: list[Any]) -> str:
    return md.table(
        ("metric", "title", "better", "version", "what"),
        (
            (
                md.code(metric.name),
                md.cell(metric.title),
                _DIRECTIONS[metric.higher_is_better],
                metric.version,
                md.cell(metric.summary),
            )
            for metric in metrics
        ),
    )


def _all(table: Any) -> list[Any]:
    return [table[name] for name in sorted(table)]


def _cards(registry: Registry) -> dict[str, Any]:
    return {name: registry.benchmarks[name].card for name in sorted(registry.benchmarks)}
