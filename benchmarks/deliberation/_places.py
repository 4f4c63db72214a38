"""States of many prompts at many places, of which only some are held at a time."""

import tseval
import tseval.probes as probes

from . import _states

# Bytes of states that are held at once; with more, places are read again from the run's arrays.
HELD_BYTES = 512 * 2**20


class PlacedStates:
    """Reads what every prompt has at every place, and hands it on place by place.

    Args:
        probing: The probe.
        read: Coroutine of a sample: what is to be known of it (with ``reason``, '' where its
            states can be used) and its states, [places, ...], or None. All that it asks the
            session is in the journal the second time.
        places: How many.
        held_bytes: Most bytes to hold.

    Attributes:
        known: What ``read`` said of each sample, by id; a reason for those that failed.
    """

    def __init__(self, probing, read, places, *, held_bytes=HELD_BYTES):
        self.known = {}
        self._probing = probing
        self._read = read
        self._places = places
        self._held_bytes = held_bytes
        self._step = places
        self._held = {}

    async def gather(self) -> None:
        """Read all prompts; keep the first places of each."""
        samples = self._probing.pool.samples
        self._probing.expect(len(samples))
        async for sample, result in self._probing.session.map(samples, self._read):
            self._probing.advance()
            if isinstance(result, tseval.TsevalError):
                self.known[sample.id] = _states.reason(result)
                continue
            self.known[sample.id], states = result
            if states is not None:
                size = max(states[0].nbytes * len(samples), 1)
                self._step = min(self._places, max(1, self._held_bytes // size))
                self._held[sample.id] = _states.compact(states[: self._step])

    async def blocks(self, samples):
        """Yield places, and the states of samples at these places, until all were there.

        Args:
            samples: Those whose states can be used.

        Yields:
            A range of places, and float [len(range), ...] by the sample's id.
        """
        yield range(self._step), self._held
        for start in range(self._step, self._places, self._step):
            block = range(start, min(start + self._step, self._places))
            self._held = {}
            async for sample, result in self._probing.session.map(samples, self._read):
                if isinstance(result, tseval.TsevalError):
                    raise result
                self._held[sample.id] = _states.compact(result[1][block.start : block.stop])
            yield block, self._held


def size_of(spec: tseval.RunSpec) -> tseval.BenchmarkSize:
    """Count what a probe asks that reads each prompt's rollout once."""
    sizes = probes.sizes_of(spec.scale)
    harmful, benign = (min(n, spec.limit or n) for n in (sizes.harmful, sizes.benign))
    return tseval.BenchmarkSize(
        prompts=harmful + benign,
        independent={"harmful": harmful, "benign": benign},
        generations=harmful + benign,
        judged=harmful + benign,
        hidden_states=harmful + benign,
        answer_tokens=sizes.answer_tokens,
        trace_tokens=sizes.trace_tokens,
    )
