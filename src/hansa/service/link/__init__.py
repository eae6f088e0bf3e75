"""Packets between chains, proven to whoever takes them."""
