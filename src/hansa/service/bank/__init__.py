"""Balances in double entry, and what is held of them; nothing else moves money."""
