"""A run in other tools' formats: Inspect's logs, Hugging Face's model cards, tables, records."""

from tseval.hookspecs import Register, hookimpl


@hookimpl
def register_exporters(register: Register) -> None:
    """Register the exporters 'inspect', 'hf-card', 'every-eval-ever' and 'parquet'."""
    from .every_eval_ever import EveryEvalEverExporter
    from .hf_card import HfCardExporter
    from .inspect_log import InspectExporter
    from .parquet import ParquetExporter

    register(InspectExporter())
    register(HfCardExporter())
    register(EveryEvalEverExporter())
    register(ParquetExporter())
