"""Reasoning benchmarks: their cards, and the checkers that say whether an answer is right."""

if __name__ != "tseval.benchmarks.reasoning":
    # From the repository root this folder is importable under its bare name as well; its
    # modules would then exist twice, with unequal classes.
    raise ImportError("import this package as 'tseval.benchmarks.reasoning'")
