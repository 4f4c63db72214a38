"""What goes with an adapter: cards, pages, merged weights; what a model wrote stays text."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from tests.support.measured import estimate
from tests.support.tiny_models import save_tiny
from tseval.before_after import Change
from tseval.errors import JournalError, TrainingError, TsevalError
from tseval.report.judges import markdown_page
from tseval.requests import ModelSpec, Subject
from tseval.train import output
from tseval.train.cost import Meter
from tseval.train.grpo import Grpo
from tseval.train.job import TrainFolder
from tseval.train.looks import LookRecord, PanelRecord, Rate
from tseval.train.output import (
    adapter_card,
    data_card,
    shape_by_recipe,
    write_merged,
    write_report,
    write_texts,
)
from tseval.train.pages import final_page, parts_of, path_page, path_plots, summary_page
from tseval.train.records import (
    Acceptance,
    Compute,
    Fall,
    Fitted,
    Gathered,
    Recipe,
    StepLog,
    TrainRecord,
)
from tseval.types import Sampling

EVIL = "<script>alert(1)</script>"


def rate(value: float, n: int = 50, lost: int = 0) -> Rate:
    return Rate(
        metric="asr_nonrefusal",
        judge="refusal-rules",
        estimate=estimate(value, value - 0.05, value + 0.05),
        n=n,
        lost=lost,
    )


def change(key: str, before: float, after: float) -> Change:
    return Change(
        key=key,
        title=f"advbench, {key}",
        unit="share",
        higher_is_better=False,
        axis=key,
        before=estimate(before, before - 0.1, before + 0.1),
        after=estimate(after, after - 0.1, after + 0.1),
        n_before=100,
        n_after=100,
        difference=estimate(after - before, after - before - 0.1, after - before + 0.1),
        reading="Better.",
    )


PANEL = PanelRecord(
    sizes={"advbench": (50, 100)},
    set_aside=3,
    looks=(
        LookRecord(step=0, rates={"asr": rate(0.9), "orr": rate(0.1, lost=2)}),
        LookRecord(
            step=20,
            rates={"asr": rate(0.5), "orr": rate(0.2)},
            rises={"orr": estimate(0.1, 0.0, 0.2)},
        ),
        LookRecord(step=40, rates={"asr": rate(0.3), "orr": rate(0.6)}, stop="refuses too much"),
    ),
    planned=6,
    rule="the rule",
    chosen=20,
    why="since",
    final=(change("asr_nonrefusal", 0.9, 0.5), change("asr_nonrefusal_substantive", 0.9, 0.5)),
)
GATHERED = Gathered(
    prompts={"harmful": 40},
    falls=(
        Fall(step="safe-answer", kind="harmful", came=40, fell=12, unknown=1, note="a note"),
        Fall(step="closed", kind="harmful", came=28, fell=0, applies=False, note="no format"),
    ),
    acceptance=(
        Acceptance(
            kind="harmful", prompts=40, draws=80, accepted=28, estimate=estimate(0.35, 0.2, 0.5)
        ),
    ),
    dropped={"near-duplicate of an evaluated prompt": 4},
    notes=(EVIL,),
)


def record(**more: Any) -> TrainRecord:
    recipe = Recipe(method="thinksafe", model=ModelSpec(backend="hf", name="org/base"))
    fields: dict[str, Any] = {
        "recipe": recipe,
        "recipe_hash": recipe.hash,
        "status": "complete",
        "subject": Subject(name="org/base", identity={}),
        "gathered": GATHERED,
        "fitted": Fitted(
            adapter=Path("t/adapter"),
            step=20,
            log=(StepLog(step=1, loss=2.0), StepLog(step=2, loss=1.5)),
            compute=Compute(phase="fit", seconds=10.0),
        ),
        "compute": [
            Compute(phase="gather", seconds=61.0, tokens=1234, flops=3.2e12, joules=7200.0),
            Compute(phase="fit", seconds=10.0, tokens=10, peak_bytes=2**30),
        ],
        "panel": PANEL,
        "warnings": ["one training with one seed (0): a claim about the method needs 3 or more"],
    }
    return TrainRecord(**(fields | more))


def folder_of(path: Path, made: TrainRecord) -> TrainFolder:
    assert made.fitted is not None
    made.fitted = msgspec.structs.replace(made.fitted, adapter=path / "adapter")
    for name in ("adapter", "data"):
        (path / name).mkdir(parents=True)
    folder = TrainFolder(path, made)
    folder.save()
    return folder


# -- pages


def text_of(page: Any) -> str:
    return markdown_page(page)


def test_the_final_page_shows_each_number_with_its_interval_once() -> None:
    text = text_of(final_page(record()))
    assert "90.0% [80.0, 100.0]" in text
    assert "-40.0 pp" in text
    assert "[-50.0, -30.0]" in text
    assert "100 → 100" in text
    # The second reading is the first one where nothing was empty.
    assert text.count("advbench") == 1


def test_a_second_reading_that_differs_is_shown() -> None:
    final = (change("asr_nonrefusal", 0.9, 0.5), change("asr_nonrefusal_substantive", 0.9, 0.4))
    panel = msgspec.structs.replace(PANEL, final=final)
    assert text_of(final_page(record(panel=panel))).count("advbench") == 2


def test_the_path_names_what_was_kept_and_why_and_what_was_tested() -> None:
    text = text_of(path_page(record()))
    rows = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    assert [row[1].strip() for row in rows[2:]] == ["0", "20", "40"]
    assert "kept" in rows[3][-2]
    assert "refuses too much" in rows[4][-2]
    assert "+10.0 pp [0.0, 20.0]" in rows[3][4]
    assert "- kept: step 20 (since)" in text
    assert "divided by 6 planned looks" in text
    assert "3 prompts were set aside as near-duplicates of final ones" in text
    assert "2 without an outcome" in text


def test_the_path_is_drawn_with_intervals_over_steps_and_in_the_plane() -> None:
    path, plane = path_plots(PANEL.looks)
    assert [series.label for series in path.series] == ["attack success", "over-refusal"]
    assert path.series[0].x == (0.0, 20.0, 40.0)
    assert path.series[0].y == (0.9, 0.5, 0.3)
    assert path.series[0].low == pytest.approx((0.85, 0.45, 0.25))
    assert (plane.series[0].x, plane.series[0].y) == ((0.1, 0.2, 0.6), (0.9, 0.5, 0.3))


def test_a_look_without_rates_leaves_a_gap_and_no_point() -> None:
    looks = (*PANEL.looks, LookRecord(step=60, note="no look: no memory"))
    path, plane = path_plots(looks)
    assert path.series[0].y == (0.9, 0.5, 0.3, None)
    assert len(plane.series[0].x) == 3
    panel = msgspec.structs.replace(PANEL, looks=looks)
    assert "no look: no memory" in text_of(path_page(record(panel=panel)))


def test_a_training_without_panel_or_adapter_has_a_page_too() -> None:
    bare = record(panel=None, fitted=None, gathered=None, compute=[], status="failed")
    (only,) = parts_of(bare)
    assert only.lead == "This training is not complete (status: failed)."


@pytest.mark.parametrize(
    ("unread", "said"),
    [
        ((), "4 a harmful prompt, 1 a benign prompt, temperature 0.9"),
        (("draws",), "1 a benign prompt, temperature 0.9"),
    ],
)
def test_the_summary_says_how_answers_were_drawn(unread: tuple[str, ...], said: str) -> None:
    sampling = Sampling(temperature=0.9)
    recipe = structs.replace(record().recipe, draws=4, sampling=sampling)
    facts = dict(summary_page(record(recipe=recipe, unread=unread)).sections[0].rows)
    assert facts["draws"].startswith(said)


def test_the_summary_of_a_trainer_that_draws_otherwise_shows_no_sampling() -> None:
    page = markdown_page(summary_page(record(unread=Grpo.card.unread)))
    assert "temperature" not in page


def test_costs_have_units_and_say_what_could_not_be_read() -> None:
    text = "".join(text_of(part.page) for part in parts_of(record()))
    assert "3.20 TFLOP" in text
    assert "2.00 Wh" in text
    assert "not readable" in text
    assert "not counted" in text
    assert "1.00 GiB" in text


# -- cards


def test_the_adapters_card_has_its_base_its_figures_and_their_limits() -> None:
    card = adapter_card(record())
    head = msgspec.yaml.decode(card.split("---\n")[1])
    assert head == {
        "base_model": "org/base",
        "library_name": "peft",
        "tags": ["tseval", "thinksafe"],
    }
    assert "-40.0 pp" in card
    assert "a claim about the method needs 3 or more" in card
    assert "Rates are a judge's opinion" in card


def test_a_card_without_figures_says_that_nothing_was_measured() -> None:
    assert "Nothing was measured" in adapter_card(record(panel=None))


def test_the_datas_card_counts_every_step_and_says_where_a_step_does_not_apply() -> None:
    card = data_card(record())
    assert "Sources of prompts and answers: safechain." in card
    rows = {
        tuple(cell.strip() for cell in line.split("|")[1:-1])
        for line in card.splitlines()
        if line.startswith("| harmful")
    }
    assert ("harmful", "safe-answer", "40", "12", "1", "a note") in rows
    assert ("harmful", "closed", "-", "does not apply", "", "no format") in rows
    assert ("harmful", "40", "80", "28", "35.0% [20.0, 50.0]") in rows
    assert "4: near-duplicate of an evaluated prompt" in card


def test_what_a_file_or_a_model_wrote_is_text_everywhere(tmp_path: Path) -> None:
    made = record(command=EVIL)
    folder = folder_of(tmp_path / "t", made)
    write_texts(folder)
    assert EVIL not in (folder.path / "report.html").read_text()
    assert EVIL not in (folder.data / "README.md").read_text()
    assert EVIL not in (folder.adapter / "README.md").read_text()
    assert "&lt;script&gt;alert(1)" in (folder.path / "report.html").read_text()


def test_a_page_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "t", record())
    (folder.path / "report.html").mkdir()
    with pytest.raises(JournalError) as caught:
        write_report(folder)
    assert "report.html" in caught.value.message
    assert "it resumes" in caught.value.hint


# -- weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainFolder:
    """A tiny model with an adapter that changes what it says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    path = tmp_path_factory.mktemp("trained")
    base = save_tiny("llama", path / "base")
    torch.manual_seed(0)
    maker: Any = AutoModelForCausalLM
    model: Any = get_peft_model(
        maker.from_pretrained(base),
        LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False),
    )
    model.save_pretrained(path / "t" / "adapter")
    recipe = Recipe(method="sft", model=ModelSpec(backend="hf", name=str(base)))
    fitted = Fitted(
        adapter=path / "t" / "adapter", step=1, compute=Compute(phase="fit", seconds=1.0)
    )
    made = TrainRecord(recipe=recipe, recipe_hash=recipe.hash, fitted=fitted)
    return TrainFolder(path / "t", made)


def logits(place: Path, adapter: Path | None = None) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    maker: Any = AutoModelForCausalLM
    model: Any = maker.from_pretrained(place, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    with torch.no_grad():
        return model.eval()(torch.arange(10)[None]).logits


def test_merged_weights_say_what_base_and_adapter_say_together(trained: TrainFolder) -> None:
    import torch
    from transformers import AutoTokenizer, GenerationConfig

    merged = write_merged(trained)
    base = Path(trained.record.recipe.model.name)
    wanted = logits(base, trained.adapter)
    assert torch.allclose(logits(merged), wanted, atol=1e-4)
    assert not torch.allclose(logits(base), wanted, atol=1e-1)
    tokenizers: Any = AutoTokenizer
    assert tokenizers.from_pretrained(merged).chat_template
    configs: Any = GenerationConfig
    assert configs.from_pretrained(merged).eos_token_id == 257
    assert not merged.with_name("merged.tmp").exists()


def test_a_merge_that_fails_leaves_nothing_half_written(
    trained: TrainFolder, tmp_path: Path
) -> None:
    broken = shutil.copytree(trained.adapter, tmp_path / "t" / "adapter")
    (broken / "adapter_model.safetensors").write_bytes(b"no tensors")
    fitted = msgspec.structs.replace(trained.record.fitted, adapter=broken)
    made = TrainFolder(tmp_path / "t", msgspec.structs.replace(trained.record, fitted=fitted))
    with pytest.raises((JournalError, TrainingError)):
        write_merged(made)
    assert not made.merged.exists()


def test_sizes_are_read_without_any_weights(trained: TrainFolder) -> None:
    from transformers import AutoModelForCausalLM

    maker: Any = AutoModelForCausalLM
    model = maker.from_pretrained(trained.record.recipe.model.name)
    shape = shape_by_recipe(trained.record.recipe)
    inner = sum(p.numel() for p in model.model.layers.parameters())
    norm = sum(p.numel() for p in model.model.norm.parameters())
    assert (shape.parameters, shape.adapter) == (inner + norm, 0)
    unknown = msgspec.structs.replace(
        trained.record.recipe, model=ModelSpec(backend="hf", name="/nowhere")
    )
    with pytest.raises(TsevalError, match="/nowhere"):
        shape_by_recipe(unknown)


def test_a_configuration_without_sizes_says_so_and_a_mistake_is_not_swallowed(
    trained: TrainFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: Exception) -> None:
        def broken(model: Any) -> Any:
            raise error

        monkeypatch.setattr(output, "shape_of", broken)

    fail(AttributeError("no num_hidden_layers"))
    with pytest.raises(TrainingError, match="sizes cannot be read: no num_hidden_layers"):
        shape_by_recipe(trained.record.recipe)
    fail(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        shape_by_recipe(trained.record.recipe)


def test_operations_that_nobody_could_count_are_no_zero_anywhere(tmp_path: Path) -> None:
    lost = Compute(phase="gather", seconds=1.0, tokens=9, flops=None, uncounted="no sizes")
    # As records had it before there was a word for it; nothing drawn costs nothing.
    older = Compute(phase="panel", seconds=1.0, tokens=9, flops=0.0)
    none = Compute(phase="fit", seconds=1.0)
    folder = folder_of(tmp_path, record(compute=[lost, older, none]))
    page = write_report(folder).read_text()
    assert page.count("not counted") == 2
    assert page.count("0 FLOP") == 1
    folder.save()
    saved = json.loads((folder.path / "train.json").read_text())
    assert saved["compute"][0]["flops"] is None
    assert saved["compute"][0]["uncounted"] == "no sizes"


def test_what_one_process_could_not_count_no_later_one_makes_a_number_of() -> None:
    meter = Meter("gather")
    meter.add(tokens=3, flops=2.0)
    meter.add_uncounted(tokens=4, why="no sizes")
    found = meter.read()
    assert (found.tokens, found.flops, found.uncounted) == (7, None, "no sizes")
    again = Meter("gather", found)
    again.add(tokens=1, flops=5.0)
    found = again.read()
    assert (found.tokens, found.flops, found.uncounted) == (8, None, "no sizes")
