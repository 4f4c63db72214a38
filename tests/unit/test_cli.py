"""The command line: what flags mean, which of them wins, what is printed, and the exit codes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from tseval import __version__, plugins
from tseval.cli import app as app_module
from tseval.cli import run as run_module
from tseval.cli.common import (
    Options,
    Sections,
    errors,
    given_values,
    option,
    with_options,
    words,
)
from tseval.errors import BackendError, ConfigError, NotComparable
from tseval.spec import RunSpec
from tseval.types import Sampling, Thinking

Tseval = Callable[..., Result]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # What else is installed beside tseval is no business of these tests, and slow to look for.
    monkeypatch.setattr(plugins, "_entry_points", list)
    return tmp_path


def tseval(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app_module.app, list(arguments), env=env)


def failed(result: Result, code: int) -> str:
    """What was said on stderr by a command that ended with a code, and not with a traceback."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result.stderr


@pytest.fixture
def specified(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunSpec]:
    """Give the specification that a command line means, without running it."""
    seen: list[tuple[RunSpec, dict[str, Any]]] = []

    def execute(spec: RunSpec, plugins: object, given: dict[str, Any], remarks: list[str]) -> int:
        seen.append((spec, given))
        return 0

    monkeypatch.setattr(run_module, "_execute", execute)

    def specify(*arguments: str, env: dict[str, str] | None = None) -> RunSpec:
        result = tseval("run", *arguments, env=env)
        assert result.exit_code == 0, result.output
        specify.given = seen[-1][1]  # type: ignore[attr-defined]
        return seen[-1][0]

    return specify


# -- defaults, and who wins


def test_without_any_flag_the_demo_runs_the_quick_suite(specified) -> None:
    spec = specified()
    assert (spec.model.backend, spec.model.name) == ("demo", "")
    assert (spec.suites, spec.benchmarks) == (("quick",), ("quick_harmful", "quick_benign"))
    assert (spec.preset, spec.judges) == ("default", ("refusal-rules",))
    assert (spec.sampling, spec.decoding) == (Sampling(temperature=0.6, top_p=0.95), "fixed")
    assert spec.thinking == Thinking(mode="default", budget=16384, unclosed="force")
    assert (spec.rollouts, spec.limit, spec.seed, spec.subset_seed) == (1, None, 0, 0)
    assert (spec.text, spec.answer_tokens_fixed) == ("answer", False)


def test_every_flag_reaches_the_specification(specified, tmp_path: Path) -> None:
    (tmp_path / "system.txt").write_text("Be kind.\n")
    spec = specified(
        *("--model", "openai/a/b@c:d", "--base-url", "http://h/v1", "-M", "format=tags,x=1"),
        *("--suite", "quick,over-refusal", "--benchmark", "harmbench", "-b", "quick_benign"),
        *("--limit", "7", "--subset-seed", "3", "--seed", "4", "--rollouts", "2"),
        *("--temperature", "0.1", "--top-p", "0.2", "--top-k", "5", "--answer-tokens", "99"),
        *("--thinking", "forced", "--thinking-budget", "300", "--unclosed", "empty"),
        *("--judged-text", "both", "--system-prompt", "@system.txt"),
        *("--data-dir", "/a,/b", "--data-dir", "/c d"),
    )
    assert (spec.model.name, spec.model.revision, spec.model.adapter) == ("a/b", "c", "d")
    assert spec.model.base_url == "http://h/v1"
    assert spec.model.options == {"format": "tags", "x": "1"}
    assert spec.suites == ("quick", "over-refusal")
    assert spec.benchmarks == (
        *("quick_harmful", "quick_benign"),
        *("xstest", "or_bench", "coconot", "falsereject", "harmbench"),
    )
    assert (spec.limit, spec.subset_seed, spec.seed, spec.rollouts) == (7, 3, 4, 2)
    assert spec.sampling == Sampling(temperature=0.1, top_p=0.2, top_k=5, answer_tokens=99)
    assert spec.answer_tokens_fixed
    assert spec.thinking == Thinking(mode="forced", budget=300, unclosed="empty")
    assert (spec.text, spec.system_prompt) == ("both", "Be kind.")
    assert spec.data_dirs == ("/a", "/b", "/c d")


FLAG, ENVIRONMENT, FILE, DEFAULT = 4, 3, 2, 0


@pytest.mark.parametrize(
    ("flag", "env", "file", "expected"),
    [
        (FLAG, ENVIRONMENT, FILE, FLAG),
        (None, ENVIRONMENT, FILE, ENVIRONMENT),
        (None, None, FILE, FILE),
        (None, None, None, DEFAULT),
        (FLAG, None, FILE, FLAG),
        (FLAG, ENVIRONMENT, None, FLAG),
        # A value equal to the default still wins over what is below it.
        (DEFAULT, ENVIRONMENT, FILE, DEFAULT),
        (None, DEFAULT, FILE, DEFAULT),
    ],
)
def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    specified, tmp_path: Path, flag, env, file, expected: int
) -> None:
    arguments: list[str] = []
    if file is not None:
        (tmp_path / "c.yaml").write_text(f"seed: {file}\n")
        arguments += ["--config", "c.yaml"]
    if flag is not None:
        arguments += ["--seed", str(flag)]
    spec = specified(*arguments, env=None if env is None else {"TSEVAL_SEED": str(env)})
    assert spec.seed == expected


def test_lists_follow_the_same_order_and_replace_each_other(specified, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("benchmark: [xstest, harmbench]\nconfig-less: 1\n")
    (tmp_path / "c.yaml").write_text("benchmark: [xstest, harmbench]\n")
    file = ("--config", "c.yaml")
    assert specified(*file).benchmarks == ("xstest", "harmbench")
    env = {"TSEVAL_BENCHMARK": "advbench,hexphi"}
    assert specified(*file, env=env).benchmarks == ("advbench", "hexphi")
    assert specified(*file, "-b", "fortress", env=env).benchmarks == ("fortress",)


def test_every_option_of_run_has_a_variable() -> None:
    import typer

    command = typer.main.get_command(app_module.app).commands["run"]  # type: ignore[attr-defined]
    for parameter in command.params:
        (long,) = [name for name in parameter.opts if name.startswith("--")]
        assert parameter.envvar == "TSEVAL_" + long[2:].upper().replace("-", "_")


def test_the_file_itself_can_be_named_by_a_variable(specified, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("limit: 9\n")
    assert specified(env={"TSEVAL_CONFIG": "c.yaml"}).limit == 9


def test_a_path_in_a_variable_may_hold_blanks(specified) -> None:
    spec = specified(env={"TSEVAL_DATA_DIR": "/my data,/b", "TSEVAL_JUDGE": "refusal-rules"})
    assert spec.data_dirs == ("/my data", "/b")
    assert spec.judges == ("refusal-rules",)


# -- groups of options


def test_a_command_has_the_options_of_its_groups_in_order_under_their_headings() -> None:
    class Size(Options, heading="How large"):
        width: int = option("--width", default=3, min=1, help="Of it.")

    class Rest(Options, heading="Of what"):
        names: list[str] = option("--name", default=[], help="Of it, too.")

    seen: list[dict[str, Any]] = []
    app = typer.Typer(rich_markup_mode=None)

    @app.command(cls=Sections)
    @with_options(Size, Rest)
    def command(context: typer.Context, place: Path, **_: Any) -> None:
        seen.append(given_values(context))

    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert shown.index("How large:") < shown.index("--width") < shown.index("Of what:")
    assert shown.index("Of what:") < shown.index("--name")
    assert CliRunner().invoke(app, ["here", "--width", "0"]).exit_code == 2
    given = CliRunner().invoke(app, ["here", "--width", "7"], env={"TSEVAL_NAME": "a b,c"})
    assert given.exit_code == 0, given.output
    assert seen == [{"place": Path("here"), "width": 7, "names": ["a b,c"]}]


# -- the configuration file


def test_a_file_takes_every_kind_of_value(specified, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        """
        model: scripted/thinking
        suite: quick
        benchmark: [xstest]
        limit: 5
        temperature: 0
        top-p: 0.5
        thinking: off
        judged-text: both
        system-prompt: 123
        model-option: {dtype: bf16, fast: true, n: 2, map: {a: [1, "x"]}}
        data-dir: /with blank
        fresh: true
        judge:
        seed: null
        """
    )
    spec = specified("--config", "c.yaml")
    assert (spec.model.backend, spec.model.name) == ("scripted", "thinking")
    assert spec.benchmarks == ("quick_harmful", "quick_benign", "xstest")
    assert (spec.limit, spec.sampling.temperature, spec.sampling.top_p) == (5, 0.0, 0.5)
    # YAML takes a bare 'off' for a truth value; the flag takes it for a word.
    assert spec.thinking.mode == "off"
    assert (spec.text, spec.system_prompt) == ("both", "123")
    assert spec.model.options == {
        "dtype": "bf16",
        "fast": "true",
        "n": "2",
        "map": '{"a":[1,"x"]}',
    }
    assert spec.data_dirs == ("/with blank",)
    assert specified.given["fresh"] is True
    assert (spec.judges, spec.seed) == (("refusal-rules",), 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sead: 1",
            "error: c.yaml has the unknown key 'sead'\n"
            "hint: did you mean 'seed'? keys are the long flags: see tseval run --help\n",
        ),
        ("config: c.yaml", "error: c.yaml has the unknown key 'config'\n"),
        ("--seed: 1", "error: c.yaml has the unknown key '--seed'\n"),
        ("limit: many", "error: c.yaml, key 'limit': 'many' does not fit: "),
        ("limit: 0", "error: c.yaml, key 'limit': 0 does not fit: "),
        ("limit: [1, 2]", "error: c.yaml, key 'limit': [1, 2] does not fit: "),
        ("top-p: 1.5", "error: c.yaml, key 'top-p': 1.5 does not fit: "),
        ("fresh: perhaps", "error: c.yaml, key 'fresh': 'perhaps' does not fit: "),
        ("thinking: loud", "error: --thinking is 'loud'\nhint: expected one of default, off,"),
        ("- seed", "error: c.yaml holds no mapping of flags to values"),
        ("", "error: c.yaml holds no mapping of flags to values"),
        ("seed: [", "error: c.yaml is no YAML: "),
        ("suite: nowhere", "error: unknown suite 'nowhere' (known: "),
    ],
)
def test_a_broken_file_is_wrong_usage_that_names_file_and_key(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    said = failed(tseval("run", "--config", "c.yaml"), 2)
    assert said.startswith(message)
    assert said.count("\n") <= 3


def test_a_missing_file_is_wrong_usage() -> None:
    said = failed(tseval("run", "--config", "lost.yaml"), 2)
    assert said == (
        "error: cannot read --config lost.yaml: No such file or directory\n"
        "hint: pass an existing YAML file\n"
    )


# -- presets


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ((), "default"),
        (("--temperature", "0.6", "--rollouts", "1", "--judge", "refusal-rules"), "default"),
        (("--temperature", "0"), "default+temperature"),
        (("--rollouts", "4", "--unclosed", "empty"), "default+unclosed+rollouts"),
        (("--answer-tokens", "50"), "default+answer-tokens"),
        (("-p", "thinksafe", "-j", "refusal-rules"), "thinksafe+judge"),
        (("-p", "thinksafe", "-j", "refusal-rules", "--judged-text", "both"), "thinksafe+judge"),
        (
            ("-p", "thinksafe", "-j", "refusal-rules", "--judged-text", "answer"),
            "thinksafe+judge+judged-text",
        ),
        # Equal to the default value, but no longer what each model recommends.
        (
            ("-p", "thinksafe", "-j", "refusal-rules", "--temperature", "0.6"),
            "thinksafe+judge+decoding",
        ),
        (("-p", "ri2026", "-j", "refusal-rules", "-k", "1"), "ri2026+judge+rollouts"),
        (("-p", "ri2026", "-j", "refusal-rules", "--answer-tokens", "1024"), "ri2026+judge"),
    ],
)
def test_what_overrides_a_preset_changes_the_name_shown(
    specified, arguments: tuple[str, ...], shown: str
) -> None:
    assert specified(*arguments).preset == shown


def test_a_preset_fills_what_no_flag_gives(specified) -> None:
    spec = specified("-p", "ri2026", "-j", "refusal-rules", "--thinking-budget", "99")
    assert (spec.rollouts, spec.decoding, spec.text) == (4, "recommended", "answer")
    assert (spec.sampling.answer_tokens, spec.answer_tokens_fixed) == (1024, True)
    assert spec.thinking == Thinking(budget=99, unclosed="force")
    fixed = specified("-p", "ri2026", "-j", "refusal-rules", "--top-k", "3")
    assert (fixed.decoding, fixed.sampling.top_k) == ("fixed", 3)


def test_a_preset_whose_judge_is_not_installed_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from msgspec.structs import replace

    from tseval.protocol import PRESETS

    stranger = replace(PRESETS["thinksafe"], judges=("a-guard-of-others",))
    monkeypatch.setitem(PRESETS, "thinksafe", stranger)
    said = failed(tseval("run", "-p", "thinksafe"), 2)
    assert said.startswith(
        "error: protocol 'thinksafe' needs the judge 'a-guard-of-others', which is not installed"
        " (judges: "
    )
    assert said.endswith(
        "hint: --judge refusal-rules measures with the offline rules instead;"
        " the table then says 'thinksafe+judge'\n"
    )


# -- wrong usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-m", "dmeo"), "error: 'dmeo' is neither a path"),
        (("-m", "hf"), "error: backend 'hf' needs a model"),
        (("-b", "xtest"), "error: unknown benchmark 'xtest' (known: "),
        (("-s", "quik"), "error: unknown suite 'quik' (known: "),
        (("-j", "refusal"), "error: unknown judge 'refusal' (known: "),
        (("-p", "thinksave"), "error: unknown protocol 'thinksave' (known: default, "),
        (("--intervention", "nudge"), "error: unknown intervention 'nudge' (known: lessthink, "),
        (("--intervention", "psr(x=1)"), "error: unknown option 'x' (known: chunk, "),
        (("--intervention", "psr(chunk=0)"), "error: intervention 'psr': Expected `int` >= 1"),
        (("--harmful-from", "xtest"), "error: unknown benchmark 'xtest' (known: "),
        (("--benign-from", "quick_harmful"), "error: --benign-from quick_harmful: that benchmark"),
        (("--harmful-from", "valley"), "error: --harmful-from valley: that benchmark has no harm"),
        (("--scale", "big"), "error: --scale is 'big'\nhint: expected one of smoke, standard"),
        (("--thinking", "on"), "error: --thinking is 'on'\nhint: expected one of default, off"),
        (("--unclosed", "drop"), "error: --unclosed is 'drop'\nhint: expected one of force,"),
        (("--judged-text", "all"), "error: --judged-text is 'all'\nhint: expected one of answer"),
        (("--top-p", "0"), "error: --top-p 0 keeps no token\nhint: --temperature 0 is greedy"),
        (("-M", "dtype"), "error: -M takes key=value, got 'dtype'"),
        (("--system-prompt", "@lost"), "error: cannot read --system-prompt @lost: No such file"),
        (("--without", "nobody"), "error: unknown plugin 'nobody' (known: "),
        (("-m", "scripted/mixd", "-b", "xstest"), "error: unknown script 'mixd' (known: mixed"),
        (("-m", "scripted", "-M", "x=1"), "error: unknown option 'x' (known: delay, fail_share"),
        (("-m", "scripted", "-M", "delay=x"), "error: -M delay and fail_share take numbers"),
        (("-m", "scripted", "-M", "script=no:f"), "error: cannot load script 'no:f': No module"),
        (("-m", "scripted", "-M", "format=x"), "error: unknown format 'x' (known: harmony, "),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_was_expected(
    arguments: tuple[str, ...], message: str
) -> None:
    said = failed(tseval("run", *arguments, "--out", "o"), 2)
    lines = [line for line in said.splitlines() if not line.startswith("tseval: ")]
    assert "\n".join(lines).startswith(message)
    assert len(lines) <= 3
    assert not list(Path("o").glob("scores.json"))


def test_what_a_kind_of_backend_cannot_do_is_said_before_any_is_built() -> None:
    said = failed(tseval("run", "-m", "vllm/x", "--intervention", "saferemind", "--out", "o"), 5)
    assert "intervention 'saferemind' needs entropies, which backend 'vllm' lacks" in said
    assert not Path("o").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--limit", "0"), "Invalid value for '--limit'"),
        (("run", "--limit", "x"), "Invalid value for '--limit'"),
        (("run", "--temperature", "-1"), "Invalid value for '--temperature'"),
        (("run", "--top-p", "1.1"), "Invalid value for '--top-p'"),
        (("run", "--rollouts", "0"), "Invalid value for"),
        (("run", "--lmit", "1"), "--limit"),
        (("rum",), "Did you mean 'run'?"),
        (("show",), "run"),
    ],
)
def test_a_flag_that_does_not_parse_ends_with_2(arguments: tuple[str, ...], said: str) -> None:
    result = tseval(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_an_error_s_code_is_the_exit_code_and_its_text_is_made_safe_to_print(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for error, code in (
        (ConfigError("wrong", hint="do this"), 2),
        (BackendError("server said \x1b[31mno\u202e"), 1),
        (NotComparable("x"), 4),
    ):
        with pytest.raises(SystemExit) as end, errors():
            raise error
        assert end.value.code == code
    said = capsys.readouterr().err
    assert said == (
        "error: wrong\nhint: do this\nerror: server said \u241b[31mno\ufffd\nerror: x\n"
    )


def test_debug_shows_the_traceback() -> None:
    result = tseval("run", "-b", "xtest", "--debug")
    assert type(result.exception).__name__ == "UnknownName"


def test_an_interrupt_ends_with_130_and_the_command_that_resumes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end, errors(resume=lambda: "tseval run --seed 1"):
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == (
        "\ninterrupted; nothing is lost. To go on:\n  tseval run --seed 1\n"
    )
    with pytest.raises(SystemExit), errors():
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_an_interrupt_before_a_command_has_begun_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import typer

    import tseval.cli

    other = typer.Typer(rich_markup_mode=None)

    @other.command()
    def begin() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tseval.cli.app.app", other)
    monkeypatch.setattr("sys.argv", ["tseval"])
    with pytest.raises(SystemExit) as end:
        tseval.cli.main()
    assert end.value.code == 130
    assert capsys.readouterr().err.strip() == "interrupted"


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("typer", ["ls"]), ("tseval.plugins", ["nosuch"]), ("msgspec", ["ls"]), ("torch", ["doctor"])],
)
def test_an_interrupt_while_something_is_imported_is_one_line(
    module: str, arguments: list[str]
) -> None:
    script = f"""
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
from tseval.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\ninterrupted\n")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (None, []),
        (["a,b", "c", "a"], ["a", "b", "c"]),
        (["panel(a,b),c"], ["panel(a,b)", "c"]),
        ([" a , ,b "], ["a", "b"]),
        (["f(g(a,b),c)"], ["f(g(a,b),c)"]),
    ],
)
def test_lists_are_separated_by_commas_outside_parentheses(values, expected: list[str]) -> None:
    assert words(values) == expected


# -- runs, from the flags to the table

QUICK = ("run", "-m", "scripted", "-b", "quick_harmful,quick_benign", "--out", "o")


def test_a_run_prints_its_table_on_stdout_and_all_else_on_stderr() -> None:
    result = tseval(*QUICK)
    assert result.exit_code == 0, result.output
    assert "quick_harmful" in result.stdout
    assert "ORR" in result.stdout
    assert "protocol default, seed 0" in result.stdout
    assert "tseval: new run in o" in result.stderr
    assert "48 rollouts made, 0 found in the journal" in result.stderr
    assert "tseval show o prints this table again" in result.stderr
    again = tseval("show", "o")
    assert (again.exit_code, again.stdout) == (0, result.stdout)


def test_the_same_command_resumes_and_another_is_refused() -> None:
    first = tseval(*QUICK, "--json")
    again = tseval(*QUICK, "--json")
    assert again.stdout == first.stdout
    assert "0 rollouts made, 48 found in the journal" in again.stderr
    said = failed(tseval(*QUICK, "--seed", "1"), 2)
    assert "o holds a run of another specification (seed: 0 there, 1 here)" in said
    said = failed(tseval(*QUICK, "--fresh"), 2)
    assert "o holds a run already" in said


def test_json_is_one_document_on_stdout() -> None:
    result = tseval(*QUICK, "--json", "--limit", "5")
    scores = json.loads(result.stdout)["scores"]
    assert {score["metric"] for score in scores} == {"asr_nonrefusal", "orr"} | {
        "asr_nonrefusal_substantive"
    }
    assert all(score["partial"] and score["n"] == 5 for score in scores)
    assert json.loads(tseval("show", "o", "--json").stdout)["scores"] == scores


def test_markdown_is_a_table() -> None:
    result = tseval(*QUICK, "--markdown")
    lines = result.stdout.splitlines()
    assert lines[0] == "**scripted/mixed**"
    assert lines[2].startswith("| benchmark ")
    assert any(line.startswith("| quick_benign ") for line in lines)


def test_more_than_a_twentieth_of_lost_verdicts_ends_with_5() -> None:
    result = tseval(*QUICK, "-M", "fail_share=0.5")
    assert result.exit_code == 5, result.output
    assert "are unparsed or failed; the same command tries those that failed again" in result.stderr
    assert "error: " in result.stderr
    assert "error " in result.stdout  # counted by reason, beside the rate
    shown = tseval("show", "o")
    assert shown.exit_code == 0
    assert "this run is not complete (status: incomplete)" in shown.stdout
    # The failed ones are tried again, the others are not.
    healed = tseval(*QUICK)
    assert healed.exit_code == 0
    assert " 0 rollouts made" not in healed.stderr
    assert " 0 found in the journal" not in healed.stderr


def test_a_benchmark_that_fails_ends_with_1_and_the_others_are_scored(tmp_path: Path) -> None:
    (tmp_path / "harmbench.jsonl").write_text("no JSON\n")
    flags = ("-b", "harmbench,quick_benign", "--data-dir", ".", "--out", "o")
    result = tseval("run", "-m", "scripted", *flags)
    assert result.exit_code == 1, result.output
    assert "quick_benign" in result.stdout
    assert "harmbench failed: " in result.stdout


def test_all_that_is_lost_is_undefined_and_not_zero() -> None:
    result = tseval(*QUICK, "-M", "fail_share=1")
    assert result.exit_code == 5
    assert "no row has a verdict" in result.stdout
    assert "0.0%" not in result.stdout.replace("0.0-100.0%", "")


def test_greedy_rollouts_that_must_be_equal_are_remarked_on() -> None:
    result = tseval(*QUICK, "--limit", "2", "-k", "2", "--temperature", "0")
    assert "temperature 0 makes all rollouts of a prompt the same" in result.stderr


# -- show, ls, version, help


def test_show_says_what_is_wrong_with_a_folder(tmp_path: Path) -> None:
    said = failed(tseval("show", "nowhere"), 2)
    assert said == (
        "error: no run in nowhere (it has no run.json)\nhint: pass a folder that tseval run made\n"
    )
    tseval(*QUICK, "--limit", "1")
    (tmp_path / "o" / "scores.json").unlink()
    said = failed(tseval("show", "o"), 2)
    assert said.startswith("error: o has no scores yet (status: complete)\nhint: run the same")
    (tmp_path / "o" / "run.json").write_text("{")
    assert failed(tseval("show", "o"), 2).startswith("error: cannot read o/run.json: ")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("benchmarks", {"harmbench", "xstest", "quick_harmful"}),
        ("suites", {"quick", "safety", "thinksafe", "over-refusal"}),
        ("judges", {"refusal-rules"}),
        ("backends", {"scripted", "openai"}),
        ("metrics", {"orr", "asr_harmful", "asr_nonrefusal"}),
        ("formats", {"tags", "template-tags", "harmony", "none"}),
        ("protocols", {"default", "thinksafe", "ri2026"}),
        ("plugins", {"tseval.metrics", "tseval.judges.refusal_rules"}),
        ("interventions", {"safepath", "zerothink", "saferemind", "psr"}),
        ("trainers", set()),
        ("exporters", set()),
        ("leaderboards", {"safety-reasoning", "deliberation"}),
    ],
)
def test_ls_lists_what_is_registered_under_each_kind(kind: str, names: set[str]) -> None:
    result = tseval("ls", kind, "--json")
    assert result.exit_code == 0, result.output
    records = json.loads(result.stdout)
    assert names <= {record[kind[:-1]] for record in records}
    table = tseval("ls", kind)
    assert table.exit_code == 0
    assert all(name in table.stdout for name in names)


def test_ls_without_a_kind_lists_benchmarks_and_takes_without() -> None:
    assert "harmbench" in tseval("ls").stdout
    assert "harmbench" not in tseval("ls", "--without", "tseval.benchmarks").stdout


def test_ls_of_an_unknown_kind_suggests() -> None:
    said = failed(tseval("ls", "judge"), 2)
    assert said.startswith("error: unknown kind 'judge' (known: backends, benchmarks, ")
    assert said.endswith("hint: tseval ls judges\n")


def test_the_version_is_that_of_the_package() -> None:
    result = tseval("--version")
    assert (result.exit_code, result.stdout) == (0, f"tseval {__version__}\n")


def test_help_of_run_is_told_apart_by_what_its_flags_do() -> None:
    said = tseval("run", "--help").stdout
    places = [
        said.index(heading)
        for heading in ("What is measured:", "How it is measured:", "Where it goes:", "Options:")
    ]
    assert places == sorted(places)
    assert said.index("--model") < places[1] < said.index("--judge") < places[2]


def main(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The entry point in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from tseval.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **env},
    )


def test_a_third_party_s_command_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "greeting.py").write_text(
        "import tseval\n@tseval.hookimpl\ndef register_commands(app):\n"
        "    @app.command('greet')\n    def greet(name: str) -> None:\n"
        "        print('hello', name)\n"
    )
    info = tmp_path / "greeting-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[tseval]\ngreeting = greeting\n")
    done = main("greet", "you", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "hello you\n")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -c 'from tseval.cli import main; main()' ls benchmarks --json | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[\n", "")


@pytest.mark.parametrize(
    ("arguments", "budget"),
    [
        (("--thinking", "forced"), 512),
        (("--thinking", "forced", "--thinking-budget", "9000"), 9000),
        # Without a trace the limit means nothing, and the protocol is everybody's.
        ((), 16384),
        (("--thinking", "forced", "--model", "scripted/x"), 16384),
        (("--thinking", "forced", "--protocol", "ri2026"), 16384),
    ],
)
def test_the_demo_model_which_ends_no_trace_gets_a_short_one(
    specified: Callable[..., RunSpec], arguments: tuple[str, ...], budget: int
) -> None:
    assert specified(*arguments, "--judge", "refusal-rules").thinking.budget == budget
