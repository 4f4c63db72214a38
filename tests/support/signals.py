"""Signals for processes that tests start."""

import signal


def heed_interrupts() -> None:
    """Let a child be interrupted, also where this process was started in the background.

    A shell without job control has its background processes ignore SIGINT, and children inherit
    that: Ctrl-C would then be tested on a process that never hears of it.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
