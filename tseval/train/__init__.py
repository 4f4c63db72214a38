"""ThinkSafe and the trainings it is compared with."""

from tseval.hookspecs import Register, hookimpl


@hookimpl
def register_trainers(register: Register) -> None:
    """Register the trainers; their modules are imported only where trainers are asked for."""
    from .thinksafe import ThinkSafe

    register(ThinkSafe())
