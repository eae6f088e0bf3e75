"""Shipments: who holds the goods of a funded order, leg by leg, until they have arrived."""
