"""The page that shows an evaluation: its figures, its curves, and every query with its results."""

from dir_jax.report.writing import write_report

__all__ = ["write_report"]
