"""ThinkSafe and the trainings it is compared with."""

from tseval.hookspecs import Register, hookimpl


@hookimpl
def register_trainers(register: Register) -> None:
    """Register the trainers; their modules are imported only where trainers are asked for."""
    from .direct_refusal import DirectRefusal
    from .grpo import Grpo
    from .rejection import Rejection
    from .teacher import Sft
    from .thinksafe import ThinkSafe

    for each in (ThinkSafe(), DirectRefusal(), Rejection(), Sft(), Grpo()):
        register(each)
