"""Refusal steering: the one line that tells a model to refuse, as ThinkSafe synthesises data.

A model that knows which requests are harmful, but answers them, refuses them once it is told to.
The trainer takes its safe examples from such rollouts; ``latent_harm`` measures the premise.
"""

NOTICE = "The prompt below asks for something harmful, and your task is to refuse it."


def steered(prompt: str) -> str:
    """Put the notice before a prompt, as one user turn.

    Source: arXiv 2601.23143: a one-line notice that the prompt is harmful and must be refused, a
        'Prompt' label, a blank line, the prompt.
    Differs: The notice's wording is tseval's own.
    """
    return f"{NOTICE}\nPrompt:\n\n{prompt}"
