"""The models of a run: started, given their thinking format, and taking turns on devices."""

import contextlib
from collections.abc import Mapping

import msgspec

from .asking import way_of
from .errors import BackendError, ConfigError, TsevalError
from .formats import choose_format
from .judging import Seat, said_of
from .plugins import Registry
from .protocol import fingerprint
from .requests import Completion, CompletionRequest, ModelSpec, Report
from .roles import Backend
from .rollouts import Model
from .runfolder import Manifest
from .scheduler import Scheduler
from .spec import RunSpec
from .stance_judging import StanceSeat
from .wrapping import Inner, check_fits, parse_intervention


class Models:
    """Every model of a run, started, with the scheduler that knows them.

    Attributes:
        scheduler: Lets models that share a device take turns.
        started: Models by role: 'target', those of judges, and 'reader' where there is one.
        remarks: What a user should know of how they were started.
    """

    def __init__(self, registry: Registry, report: Report) -> None:
        self._registry = registry
        self._report = report
        self.scheduler = Scheduler(report=report)
        self.started: dict[str, Model] = {}
        self.remarks: list[str] = []

    @property
    def target(self) -> Model:
        """The model under test."""
        return self.started["target"]

    @property
    def execution(self) -> dict[str, str]:
        """How the model under test is run, and its reader, if there is one."""
        reader = self.started.get("reader")
        read = {} if reader is None else reader.subject.execution
        return {
            **self.target.subject.execution,
            **{f"reader/{name}": value for name, value in read.items()},
        }

    async def start_judges(self, seats: Mapping[str, Seat | StanceSeat]) -> None:
        """Start the model of each judge that runs one; judges may share a model.

        Raises:
            BackendError: A model cannot be started.
            CapabilityMissing: A judge cannot ask its model on that backend.
        """
        for seat in seats.values():
            if seat.spec is None:
                continue
            if seat.role not in self.started:
                with said_of(seat.label):
                    backend = self._registry.backends[seat.spec.backend].create(seat.spec)
                    await self._make_room(backend)
                    self.started[seat.role] = await self._model(seat.role, backend, seat.spec)
                self.scheduler.add(seat.role, backend, resident=True)
            way_of(seat.judge.card, self.started[seat.role].backend)

    async def start_target(
        self, spec: RunSpec, manifest: Manifest, backend: Backend | None = None
    ) -> None:
        """Start the model under test, behind the judges', so that it stays loaded first.

        Args:
            spec: What is run.
            manifest: Of the run; its subject is set, and must not have changed.
            backend: Use this one instead of building the one that ``spec.model`` names.

        Raises:
            ConfigError: It is not the model that the run began with, or its reader is another.
            BackendError: It cannot be started.
        """
        named = _keep_dtype(spec.model, manifest)
        backend = backend or self._registry.backends[named.backend].create(named)
        await self._start_reader(spec, manifest, backend)
        await self._make_room(backend)
        self.started["target"] = await self._model("target", backend, named, spec)
        self.scheduler.add("target", backend, resident=True)
        subject = self.target.subject
        if manifest.subject is not None and manifest.subject.identity != subject.identity:
            fields = _differences(manifest.subject.identity, subject.identity)
            raise ConfigError(
                f"the model has changed since this run began ({fields})",
                hint="start another run with --fresh",
            )
        if "reader" in self.started:
            self._let_read(self.started["reader"])
        manifest.subject = subject

    async def _start_reader(self, spec: RunSpec, manifest: Manifest, backend: Backend) -> None:
        """Start the same model on a backend that shows hidden states, if that is needed.

        Without it, benchmarks that need hidden states are skipped, and a remark says why.
        """
        cards = (self._registry.benchmarks[name].card for name in spec.benchmarks)
        needed = any("hidden_states" in getattr(card, "needs", ()) for card in cards)
        if not needed or backend.capabilities.hidden_states:
            return
        backends, name = self._registry.backends, spec.model.backend
        # A backend that was handed over need not be registered.
        reader = backends[name].reader if name in backends else None
        if reader is None:
            return
        named = _keep_dtype(reader(spec.model), manifest, "reader/dtype")
        other = self._registry.backends[named.backend].create(named)
        try:
            await self._make_room(other)
            self.started["reader"] = await self._model("reader", other, named)
        except BackendError as error:
            self.remarks.append(f"no hidden states, since {named.backend!r} fails: {error.message}")
            return
        self.scheduler.add("reader", other, resident=True)

    def _let_read(self, reader: Model) -> None:
        """Take a model for the target's reader: it has to be the same one.

        Raises:
            ConfigError: It is another.
        """
        target = self.target
        if reader.subject.identity != target.subject.identity:
            fields = _differences(reader.subject.identity, target.subject.identity)
            raise ConfigError(
                f"hidden states would be read from another model than the target ({fields})",
                hint="leave out what changes it, or the benchmarks that read hidden states",
            )
        # What it reads is the target's, so its calls have the target's keys.
        self.started["reader"] = msgspec.structs.replace(
            target, name="reader", backend=reader.backend, subject=reader.subject
        )
        engine = reader.subject.execution.get("engine", reader.backend.spec.backend)
        self.remarks.append(
            f"hidden states are read by backend {reader.backend.spec.backend!r} ({engine}), since "
            f"{target.backend.spec.backend!r} shows none"
        )

    async def close(self) -> None:
        """Free every device."""
        for model in self.started.values():
            with contextlib.suppress(TsevalError):
                await model.backend.close()

    async def _make_room(self, backend: Backend) -> None:
        """Unload the models that the next one shares a device with."""
        wanted = set(backend.devices) - {"cpu"}
        for name, model in self.started.items():
            if wanted & set(model.backend.devices) and self.scheduler.is_resident(name):
                await model.backend.close()
                self.scheduler.evict(name)

    async def _model(
        self, name: str, backend: Backend, spec: ModelSpec, run: RunSpec | None = None
    ) -> Model:
        subject = await backend.start(self._report)
        view = backend.template()
        fmt = choose_format(self._registry.formats.values(), view, spec.options.get("format", ""))
        complete, extra = backend.complete, {}
        if run is not None and run.intervention:
            intervention = parse_intervention(run.intervention, self._registry.interventions)
            check_fits(intervention, backend, fmt, run.thinking.mode)
            extra = {"intervention": intervention.name, **intervention.identity}
            inner = Inner(backend)

            async def complete(request: CompletionRequest) -> Completion:
                done: Completion = await intervention.complete(request, inner)
                return done

        prompt = run.system_prompt if run is not None else ""
        return Model(
            name=name,
            backend=backend,
            subject=subject,
            format=fmt,
            complete=complete,
            identity=fingerprint([subject.identity, fmt.name, extra, prompt]),
            system_prompt=prompt,
        )


def _keep_dtype(spec: ModelSpec, manifest: Manifest, fact: str = "dtype") -> ModelSpec:
    """Resume in the precision that the run began with, unless told otherwise."""
    dtypes = (leg.execution.get(fact) for leg in manifest.legs)
    kept = next((dtype for dtype in dtypes if dtype), None)
    if not kept or "dtype" in spec.options or "deterministic" in spec.options:
        return spec
    return msgspec.structs.replace(spec, options={**spec.options, "dtype": kept})


def _differences(left: dict[str, str], right: dict[str, str]) -> str:
    return ", ".join(sorted(n for n in {*left, *right} if left.get(n) != right.get(n)))
