"""What a run notes beside its calls: protocols of its scores, remarks, and how far it has come."""

from collections import Counter

from .measurements import Measurement
from .outcomes import OutcomeBook
from .protocol import Protocol


class Ledger:
    """The notes of one run, kept by its session.

    Attributes:
        protocols: Every protocol that a score was made under, by fingerprint.
        warnings: Remarks that belong beside the scores.
        measurements: What probes found, by probe.
        outcomes: What each row of a score came to.
        expected, done: Steps by benchmark, for the progress display.
    """

    def __init__(self) -> None:
        self.protocols: dict[str, Protocol] = {}
        self.warnings: list[str] = []
        self.measurements: dict[str, Measurement] = {}
        self.outcomes = OutcomeBook()
        self.expected: Counter[str] = Counter()
        self.done: Counter[str] = Counter()

    def warn(self, message: str) -> None:
        """Keep a remark that belongs beside the scores; each is kept once."""
        if message not in self.warnings:
            self.warnings.append(message)

    def declare(self, protocol: Protocol) -> str:
        """Record the protocol of a score that will be made; return its fingerprint."""
        self.protocols[protocol.fingerprint] = protocol
        return protocol.fingerprint

    def expect(self, benchmark: str, steps: int) -> None:
        """Say how many steps a benchmark will take, for the progress display."""
        self.expected[benchmark] += steps

    def advance(self, benchmark: str, steps: int = 1) -> None:
        """Say that steps were done."""
        self.done[benchmark] += steps
