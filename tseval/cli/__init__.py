"""The command line: one module a command; each parses, calls the library and prints."""

import sys

# What a shell gives a command that Ctrl-C ended: 128 and the number of SIGINT.
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line; the entry point of ``tseval``.

    The commands are imported here, not above: Ctrl-C while they load is an interrupt as any other,
    and no traceback. Once a command works, its own `errors` says how to resume it.
    """
    try:
        from .app import main as run

        run()
    except (KeyboardInterrupt, SystemExit) as end:
        # Before a command has begun, typer makes an exit of it that says nothing.
        cause = getattr(end.__context__, "__cause__", None)
        if not any(isinstance(each, KeyboardInterrupt) for each in (end, cause)):
            raise
        sys.stderr.write("\ninterrupted\n")
        raise SystemExit(EXIT_INTERRUPTED) from None


__all__ = ["EXIT_INTERRUPTED", "main"]
