"""How much a task will ask, counted from its requests."""

from collections import defaultdict

from tseval.spec import RunSpec
from tseval.types import BenchmarkSize, Sampling

from .decoding import sampling_of
from .records import Built, DocPlan


def size_of(built: Built, spec: RunSpec) -> BenchmarkSize:
    """Count what a run will ask; requests that are equal are asked once.

    Args:
        built: The tasks.
        spec: The run.
    """
    repeats: dict[tuple[int, Sampling], int] = defaultdict(int)
    scored: set[tuple[int, str]] = set()
    for task in built.tasks:
        draws = [sampling_of(kwargs, spec, spec.sampling) for kwargs in task.kwargs]
        for doc in task.docs:
            for ask in doc.asks:
                if ask.continuation is not None:
                    scored.add((ask.context, ask.continuation))
                else:
                    same = ask.context, draws[ask.kwargs]
                    repeats[same] = max(repeats[same], ask.repeats)
    # What goes on from a beginning does not think.
    begun = all(task.begun for task in built.tasks)
    docs = [doc for task in built.tasks for doc in task.docs]
    return BenchmarkSize(
        prompts=len(docs),
        independent={"question": len({cluster_of(doc) for doc in docs})},
        generations=sum(repeats.values()),
        loglikelihoods=len(scored),
        answer_tokens=max((drawn.answer_tokens for _, drawn in repeats), default=None),
        trace_tokens=0 if begun else None,
    )


def cluster_of(doc: DocPlan) -> str:
    """Name what a document asks: those that ask the same are not independent."""
    return ",".join(str(ask.context) for ask in doc.asks)
