"""The ``tseval`` application and its entry point."""

import sys

import typer

from tseval.cli import (
    compare,
    doctor,
    export,
    gate,
    judge,
    leaderboard,
    ls,
    plan,
    report,
    run,
    show,
    train,
)
from tseval.cli.common import Sections, errors

app = typer.Typer(
    name="tseval",
    help="From checkpoint to scorecard: attack success, over-refusal, reasoning, deliberation.",
    no_args_is_help=True,
    # Boxes around the help cost half of the time that --help takes.
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run", cls=Sections)(run.command)
app.command("plan", cls=Sections)(plan.command)
app.command("ls")(ls.command)
app.command("show")(show.command)
app.command("report")(report.command)
app.command("compare")(compare.command)
app.command("gate")(gate.command)
app.add_typer(judge.app, name="judge")
app.add_typer(train.app, name="train")
app.add_typer(leaderboard.app, name="leaderboard")
app.command("export")(export.command)
app.command("doctor")(doctor.command)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        import tseval

        typer.echo(f"tseval {tseval.__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; third parties' commands are added when one of them is called."""
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    known = {command.name for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    if arguments and arguments[0] not in known:
        # Loading plugins takes longer than --help may; only an unknown command needs them.
        with errors():
            from tseval.plugins import load_registry

            load_registry().manager.hook.register_commands(app=app)
    app()
