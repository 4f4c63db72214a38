"""Built-in interventions: defences that guide generation and train nothing.

They belong to the engine, beside the backends: they follow a trace token by token with the same
objects as the backends do, which are no public names of a catalogue.
"""

from tseval.hookspecs import Register, hookimpl

from .begun import LessThink, SafePath, ZeroThink
from .morethink import MoreThink
from .psr import SelfReflection
from .saferemind import SafeRemind

__all__ = ["LessThink", "MoreThink", "SafePath", "SafeRemind", "SelfReflection", "ZeroThink"]


@hookimpl
def register_interventions(register: Register) -> None:
    """Register the interventions."""
    for each in (SafePath(), ZeroThink(), LessThink(), MoreThink(), SafeRemind(), SelfReflection()):
        register(each)
