"""Leaderboards: runs to entries, entries to ranked rows; tables and pages are in ``report``."""
