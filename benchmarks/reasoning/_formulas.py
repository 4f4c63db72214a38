"""Whether two formulas are equal: math-verify, kept from what would run for minutes.

sympy works out powers and factorials while it reads, in calls that no signal interrupts. What is
too long, too deep or too large to work out is compared as text by who asks, and is not read here.

math-verify's own limits are seconds by the clock, and what overruns them counts as unequal: on a
busy machine a right answer would be wrong. Ours is CPU time, and what overruns it is an error.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from ._notation import LENGTH

# CPU time in seconds that reading and comparing two formulas may take; nearly all take less than
# a tenth of one, and the first pays for math-verify's own start.
_CPU_SECONDS = 20.0
# Largest exponents that are worked out, of numbers and where there are variables.
_POWER = 2000
_SYMBOLIC_POWER = 60
# What may stand left of an equals sign for its right side to be the answer.
NAMED = re.compile(r"\s*\\?[A-Za-z]+\s*(?:_\s*\{?\w+\}?)?\s*(?:\([^()]*\))?\s*")


@lru_cache(maxsize=4096)
def equal_formulas(one: str, other: str) -> bool:
    """Ask math-verify, once neither text is an equation that the other is not."""
    sides = [NAMED.fullmatch(text.partition("=")[0]) for text in (one, other)]
    if ("=" in one) != ("=" in other):
        # One is an equation: only 'name = value' stands for its value.
        if not sides["=" in other]:
            return False
        one, other = (text.rpartition("=")[2] for text in (one, other))
    if not (_is_tame(one) and _is_tame(other)):
        return False
    from math_verify import verify

    with _cpu_limit(_CPU_SECONDS):
        left, right = _parse(one), _parse(other)
        if not left or not right:
            return False
        return bool(verify(left, right, timeout_seconds=None))


class _Overrun(BaseException):
    """Not an Exception: math-verify takes every one of those for 'unequal'."""


@contextmanager
def _cpu_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError once the body has used more CPU time; for a process's main thread."""

    def overrun(*_: object) -> None:
        raise _Overrun

    earlier = signal.signal(signal.SIGPROF, overrun)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    except _Overrun:
        raise TimeoutError(f"math-verify used more than {seconds:g} s of CPU time") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, earlier)


@lru_cache(maxsize=4096)
def _parse(text: str) -> Any:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    # Its own units would take the variables of '3h' and '2m' away.
    normal = NormalizationConfig(malformed_operators=True, nits=True, units=False)
    return parse(
        f"\\boxed{{{text}}}",
        [LatexExtractionConfig(boxed_match_priority=0, normalization_config=normal)],
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )


def _is_tame(text: str) -> bool:
    """Whether it can be computed with: sympy works out powers and factorials while it reads."""
    if not 0 < len(text) <= LENGTH or re.search(r"\d{60}", text):
        return False
    if text.count("{") + text.count("(") > 40 or _deepest(text) > 12:
        return False
    if re.search(r"\\(?:sum|prod|int|lim|Gamma)(?![A-Za-z])", text) or _power(text) > (
        _SYMBOLIC_POWER if re.search(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])", text) else _POWER
    ):
        return False
    largest = max((int(one) for one in re.findall(r"\d+", text)), default=0)
    grows = text.count("!") + len(re.findall(r"\\[dt]?binom", text))
    return not grows or (grows <= 4 and largest <= 200 and not re.search(r"!\s*[!)]", text))


def _power(text: str) -> int:
    """Bound the largest exponent in a text: powers of powers multiply."""
    largest = chained = 1
    for caret in re.finditer(r"\^\s*", text):
        start = caret.end()
        end = start
        depth = 0
        while end < len(text):
            depth += (text[end] in "{(") - (text[end] in "})")
            end += 1
            if depth <= 0 and not re.match(r"[\d^{(.]", text[end : end + 1]):
                break
        numbers = re.findall(r"\d+", text[start:end])
        # A power of two numbers in an exponent is out of any bound.
        exponent = _POWER if "^" in text[start:end] and len(numbers) > 1 else 1
        for number in numbers:
            exponent *= max(1, int(number))
        if text[: caret.start()].rstrip().endswith((")", "}")):
            chained *= exponent
        else:
            largest = max(largest, exponent)
    return largest * chained


def _deepest(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return deepest
