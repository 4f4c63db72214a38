"""Backend ``hf/...``: transformers, for a folder, a hub id, a GGUF file or a LoRA adapter.

From the inside out: ``source``, ``identity``, ``options`` and ``load`` find and load weights;
``text``, ``rows`` and ``words`` turn requests into tokens and tokens into completions; ``batches``,
``limits`` and ``prefixes`` decide which rows run together and what their prompts share; ``cache``,
``engine``, ``entropies`` and ``passes`` run them; ``worker`` is the thread that does, and
``backend`` is what the session talks to.
"""

from .backend import CAPABILITIES, HfBackend, register_backends

__all__ = ["CAPABILITIES", "HfBackend", "register_backends"]
