"""Backend ``openai/...``: any server that speaks OpenAI's protocol.

From the inside out: ``address`` and ``http`` reach a server, ``wire`` speaks its dialect,
``render``, ``read`` and ``choose`` turn requests into prompts and replies into completions,
``probe`` and ``start`` find out what it can do, ``backend`` is what the session talks to.
"""

from .backend import OpenAIBackend, register_backends

__all__ = ["OpenAIBackend", "register_backends"]
