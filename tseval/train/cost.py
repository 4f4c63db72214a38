"""What a phase of a training costs: time, tokens, floating-point operations, energy, memory.

The operations are counted by formula, not measured. Legend: P = parameters without embeddings and
head, A = those of the adapter, D = width, V = vocabulary, K = layers, n = tokens of a row.

- Reading or writing a row once: 2 P n + 2 K D n^2 (each token attends to those before it).
- Logits of m positions: 2 D V m.
- A training step reads each row, then carries gradients back through the same products, of which
  those by frozen weights cost as much again and attention twice as much:
  4 P n + 6 K D n^2 + 6 A n, and 4 D V m. Activations that are made anew add one reading.
- The base model's pass for a divergence: one reading, and 2 D V m.
"""

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import structs

from .records import Compute

_ENDLESS = 1e300
_POWERCAP = Path("/sys/class/powercap")
# Where Linux keeps the most memory that this process held, and forgets it.
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Shape(NamedTuple):
    """Sizes that the formulas need; see the head of the module."""

    parameters: int
    adapter: int
    layers: int
    width: int
    vocabulary: int


def shape_of(model: Any) -> Shape:
    """Read a model's sizes; of a ``PeftModel``, base and adapter."""
    config = model.config.get_text_config()
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    ends = (inner.get_input_embeddings(), inner.get_output_embeddings())
    apart = {id(p) for module in ends if module is not None for p in module.parameters()}
    body, adapter = 0, 0
    for parameter in model.parameters():
        if parameter.requires_grad and inner is not model:
            adapter += parameter.numel()
        elif id(parameter) not in apart:
            body += parameter.numel()
    return Shape(
        body,
        adapter,
        int(config.num_hidden_layers),
        int(config.hidden_size),
        int(inner.get_input_embeddings().weight.shape[0]),
    )


def reading_flops(shape: Shape, rows: Iterable[int], scored: int = 0) -> float:
    """Operations of reading (or writing) rows once.

    Args:
        shape: Of the model.
        rows: Tokens of each row.
        scored: Positions whose logits are made.
    """
    body = sum(2.0 * shape.parameters * n + 2.0 * shape.layers * shape.width * n * n for n in rows)
    return body + 2.0 * shape.width * shape.vocabulary * scored


def training_flops(
    shape: Shape, rows: Iterable[int], labelled: int, *, recomputed: bool = False
) -> float:
    """Operations of a forward and a backward pass with frozen weights and an adapter.

    Args:
        shape: Of the model.
        rows: Tokens of each row.
        labelled: Positions that have a label.
        recomputed: Whether activations were made anew in the backward pass.
    """
    lengths = list(rows)
    again = reading_flops(shape, lengths) if recomputed else 0.0
    body = sum(
        4.0 * shape.parameters * n
        + 6.0 * shape.layers * shape.width * n * n
        + 6.0 * shape.adapter * n
        for n in lengths
    )
    return body + again + 4.0 * shape.width * shape.vocabulary * labelled


class Meter:
    """Measures a phase, from where it is made.

    Args:
        phase: Its name, as in ``Compute``.
        before: What earlier processes spent on it; added to everything.
    """

    def __init__(self, phase: str, before: Compute | None = None) -> None:
        self._before = before or Compute(phase=phase, seconds=0.0)
        self._started = time.monotonic()
        self._energy = Energy()
        self._tokens = 0
        self._flops = 0.0
        self._uncounted = ""
        self._left_out = 0.0
        self._not_ours = 0.0
        self._peak = 0
        forget_peak()

    def add(self, *, tokens: int, flops: float) -> None:
        """Count what was passed through a model."""
        self._tokens += tokens
        self._flops += flops

    def add_uncounted(self, *, tokens: int, why: str) -> None:
        """Count tokens whose operations nobody knows; the phase's are unknown from then on."""
        self._tokens += tokens
        self._uncounted = self._uncounted or why

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is done within."""
        started, spent = time.monotonic(), self._energy.joules()
        self._peak = max(self._peak, peak_bytes() or 0)
        try:
            yield
        finally:
            forget_peak()
            self._left_out += time.monotonic() - started
            self._not_ours += (self._energy.joules() or 0.0) - (spent or 0.0)

    def read(self) -> Compute:
        """What the phase has cost until now."""
        past = self._before
        joules = self._energy.joules()
        unknown = joules is None or (past.seconds > 0 and past.joules is None)
        counted = past.flops is not None and not self._uncounted
        return structs.replace(
            past,
            seconds=past.seconds + time.monotonic() - self._started - self._left_out,
            tokens=past.tokens + self._tokens,
            flops=(past.flops or 0.0) + self._flops if counted else None,
            uncounted=past.uncounted or self._uncounted,
            joules=None if unknown else (past.joules or 0.0) + (joules or 0.0) - self._not_ours,
            peak_bytes=max(past.peak_bytes or 0, self._peak, peak_bytes() or 0) or None,
        )


class Energy:
    """Reads the energy counters of the machine: of all GPUs (NVML), or else of all CPU packages.

    They count everything that runs on those devices, so a shared machine's figure is too high.
    """

    def __init__(self) -> None:
        self._read = _gpu_counters() or _package_counters()
        self._started = self._read() if self._read else {}

    def joules(self) -> float | None:
        """Energy since it was made, or None where it cannot be read."""
        if self._read is None:
            return None
        return sum(
            (counter.value - self._started[name].value) % (counter.limit or _ENDLESS)
            for name, counter in self._read().items()
        )


class Counter(NamedTuple):
    """A counter in joules, and where it starts anew (0: never)."""

    value: float
    limit: float = 0.0


def _gpu_counters() -> Callable[[], dict[str, Counter]] | None:
    """Total energy of each visible GPU, in joules, where NVML says it."""
    from importlib import import_module

    try:
        nvml: Any = import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(n) for n in range(nvml.nvmlDeviceGetCount())]

        def read() -> dict[str, Counter]:
            # NVML counts in thousandths of a joule.
            return {
                str(n): Counter(nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)
                for n, handle in enumerate(handles)
            }

        return read if read() else None
    except nvml.NVMLError:  # no driver behind it, or a GPU that does not count
        return None


def _package_counters(root: Path = _POWERCAP) -> Callable[[], dict[str, Counter]] | None:
    """Energy of each CPU package, in joules, where the kernel lets us read it."""
    zones = sorted(root.glob("intel-rapl:[0-9]*"))
    zones = [zone for zone in zones if zone.name.count(":") == 1]

    def read() -> dict[str, Counter]:
        # The kernel counts in millionths of a joule.
        return {
            zone.name: Counter(
                int((zone / "energy_uj").read_text()) / 1e6,
                int((zone / "max_energy_range_uj").read_text()) / 1e6,
            )
            for zone in zones
        }

    try:
        return read if read() else None
    except (OSError, ValueError):
        return None


def peak_bytes() -> int | None:
    """Return the most memory held since :func:`forget_peak`.

    Of the GPUs where torch uses one, else of this process: since its beginning, where the system
    does not forget.
    """
    torch = _torch_on_gpus()
    if torch is not None:
        devices = range(torch.cuda.device_count())
        return sum(int(torch.cuda.max_memory_allocated(device)) for device in devices)
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(), re.M)
    except OSError:  # no Linux
        found = None
    if found is not None:
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(held if sys.platform == "darwin" else held * 1024)


def forget_peak() -> None:
    """Measure the most memory held from now on, where the system can; what is held stays counted.

    Source: proc(5): 5, written to clear_refs, sets VmHWM to the present resident set.
    """
    torch = _torch_on_gpus()
    if torch is not None:
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        _CLEAR.write_text("5")


def _torch_on_gpus() -> Any:
    """Return torch where it uses a GPU already, else None."""
    torch: Any = sys.modules.get("torch")
    used = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch if used else None
