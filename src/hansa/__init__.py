"""A ledger that companies on both sides of a border run together."""

__version__ = "0.1.0"
