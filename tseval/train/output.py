"""What goes with an adapter: its card, the card of its data, merged weights, the web page."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from tseval.errors import JournalError, TrainingError
from tseval.report.html import page_html
from tseval.report.html import write_whole as write_page
from tseval.report.judges import markdown_page
from tseval.report.text import for_markdown

from .cost import Shape, shape_of
from .job import TrainFolder
from .pages import data_page, final_page, name_of, parts_of, summary_page
from .records import Recipe, TrainRecord

if TYPE_CHECKING:
    from tseval.models.hf.source import Source

_FIELDS = {
    "prompt": "what the user says; the notice that asked for a refusal is not in it",
    "trace, thought": "the thinking trace without its markers, and whether markers are trained",
    "answer": "what follows it",
    "kind": "whether the prompt is harmful or benign",
    "steered": "whether the answer was drawn under the notice",
    "weight": "in the loss, 1 on average over its pool",
    "id, source, draw": "content hash; where the prompt came from; its rollout's key",
}


def write_texts(folder: TrainFolder) -> None:
    """Write the cards of adapter and data, and ``report.html``; raises JournalError."""
    record = folder.record
    if record.fitted is not None:
        _write(record.fitted.adapter / "README.md", adapter_card(record))
    if record.gathered is not None:
        _write(folder.data / "README.md", data_card(record))
    write_report(folder)


def write_report(folder: TrainFolder) -> Path:
    """Write the training's web page, with the theory where that was measured.

    Raises:
        JournalError: It cannot be written.
    """
    from .report import theory_part
    from .theory_measure import load_theory

    record = folder.record
    parts = parts_of(record)
    theory = load_theory(folder)
    if theory is not None:
        parts.append(theory_part(theory))
    facts = {"method": record.recipe.method, "recipe": record.recipe_hash, "status": record.status}
    path = folder.path / "report.html"
    try:
        write_page(path, page_html(name_of(record), parts, facts))
    except OSError as error:
        raise _unwritten(path, error) from error
    return path


# -- cards


def adapter_card(record: TrainRecord) -> str:
    """Describe an adapter: what it is, what was measured of it, and what that does not say."""
    fitted, panel, method = record.fitted, record.panel, record.recipe.method
    assert fitted is not None
    head = {"base_model": name_of(record), "library_name": "peft", "tags": ["tseval", method]}
    measured = (
        markdown_page(final_page(record))
        if panel is not None and panel.final
        else "Nothing was measured: the training had no `--eval-suite`. `tseval run` measures the"
        " base model and this adapter, and `tseval show ADAPTER-RUN --against BASE-RUN` compares"
        " them.\n"
    )
    return "\n".join(
        [
            _front_matter(head),
            f"# {for_markdown(name_of(record))}, trained by {for_markdown(method)}",
            "",
            f"A LoRA adapter, of step {fitted.step} of its training. It is to refuse what it should"
            " and to answer what it should; how far it does stands below, with intervals.",
            "",
            measured,
            markdown_page(summary_page(record)),
            "**What this does not say.** Rates are a judge's opinion of sampled answers to these"
            " prompts; other prompts, attacks and decoding give others. An adapter can be taken off"
            " again. The licences of the base model and of the prompts' sources hold.",
            "",
            f"`tseval run --model {fitted.adapter.name}` measures it; `train.json` beside its"
            " folder holds everything that is needed to train it again.",
            "",
        ]
    )


def data_card(record: TrainRecord) -> str:
    """Describe what was trained on."""
    found = record.gathered
    assert found is not None
    method = for_markdown(record.recipe.method)
    sources = dict.fromkeys((*record.recipe.harmful, *record.recipe.benign, *record.recipe.teacher))
    return "\n".join(
        [
            _front_matter({"tags": ["tseval", record.recipe.method]}),
            f"# What {for_markdown(name_of(record))} was trained on by {method}",
            "",
            "`train.jsonl` holds one example a line. It holds harmful requests word for word, and"
            " answers that a model wrote: nobody has read them all.",
            "",
            f"Sources of prompts and answers: {for_markdown(', '.join(sources))}. Their licences"
            " hold for what was taken from them.",
            "",
            *(f"- `{name}`: {text}" for name, text in _FIELDS.items()),
            "",
            markdown_page(data_page(record)),
        ]
    )


def _front_matter(fields: dict[str, Any]) -> str:
    import msgspec

    return f"---\n{msgspec.yaml.encode(fields).decode()}---\n"


# -- weights


def write_merged(folder: TrainFolder) -> Path:
    """Write the base model's weights with the adapter added to them, and its tokenizer.

    In float32: in bfloat16, steps as small as an adapter's would be rounded away. Written beside
    its place and then put there, so that a folder that exists is whole.

    Raises:
        TrainingError: Memory ran out, or the adapter does not fit its base.
        JournalError: It cannot be written.
    """
    from peft import PeftModel

    from tseval.models.hf.load import load, without_bars
    from tseval.models.hf.options import read_options

    from .weights import base_of, save_errors

    fitted, target = folder.record.fitted, folder.merged
    assert fitted is not None
    model = folder.record.recipe.model
    base = base_of(model, _silent)
    temporary = target.with_name("merged.tmp")
    foreign = {k: v for k, v in model.options.items() if k == "trust_remote_code"}
    options = structs.replace(read_options("hf", foreign), device="cpu", dtype="float32")
    try:
        loaded = load(base, options, _silent)
        adapted: Any = PeftModel.from_pretrained(loaded.model, str(fitted.adapter))
        merged = adapted.merge_and_unload(safe_merge=True)
        merged.generation_config = _generation_config(base.base, merged)
        shutil.rmtree(temporary, ignore_errors=True)
        with without_bars():
            merged.save_pretrained(temporary)
        loaded.text.tokenizer.save_pretrained(temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
    except save_errors() as error:
        raise _unwritten(target, error) from error
    except (MemoryError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise TrainingError(
            f"the adapter cannot be merged: {said[:200]}",
            hint="the adapter itself is complete: merge it on a machine with more memory",
        ) from error
    return target


def _silent(phrase: str, share: float | None) -> None:
    """Say nothing; a ``tseval.requests.Report``."""


def _generation_config(source: "Source", model: Any) -> Any:
    """Read the base's own settings for generation, which loading leaves behind."""
    from transformers import GenerationConfig

    maker: Any = GenerationConfig
    try:
        return maker.from_pretrained(source.place, **source.arguments)
    except OSError:
        return maker.from_model_config(model.config)


def shape_by_recipe(recipe: Recipe) -> Shape:
    """Read the base model's sizes from its configuration, without its weights.

    Raises:
        TrainingError: They cannot be read, with the reason.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from .weights import base_of

    try:
        source = base_of(recipe.model, _silent).base
        if source.gguf:
            raise TrainingError("the sizes of a GGUF file's model are not read")
        config = AutoConfig.from_pretrained(source.place, **source.arguments)
        with torch.device("meta"):
            maker: Any = AutoModelForCausalLM
            return shape_of(maker.from_config(config))
    # Not at hand, unknown to transformers, made by code that wants weights or a package, or with
    # sizes by other names.
    except (OSError, ValueError, ImportError, RuntimeError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise TrainingError(f"the base model's sizes cannot be read: {said[:200]}") from error


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: Exception) -> JournalError:
    said = getattr(error, "strerror", None) or error
    return JournalError(
        f"cannot write {path}: {said}",
        hint="free space, then run the same command again: it resumes",
    )
