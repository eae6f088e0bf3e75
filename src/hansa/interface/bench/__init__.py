"""Measuring: each figure beside a limit taken in the same run, for machines are noisy."""

from hansa.interface.bench.run import FIGURES, run

__all__ = ["FIGURES", "run"]
