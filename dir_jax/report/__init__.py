"""The page that shows an evaluation: its metrics, its curves, and queries with their results."""

from dir_jax.report.verdicts import JudgedRankings
from dir_jax.report.writing import write_report

__all__ = ["JudgedRankings", "write_report"]
