"""Probes: do the thinking tokens deliberate? One module each, and the prompts they ship with."""

if __name__ != "tseval.benchmarks.deliberation":
    # From the repository root this folder is importable under its bare name as well; its
    # modules would then exist twice, with unequal classes.
    raise ImportError("import this package as 'tseval.benchmarks.deliberation'")
