"""The version of ``stance-rules``, apart from its patterns so that listing it compiles none."""

# Changes whenever a label could.
VERSION = "1"
