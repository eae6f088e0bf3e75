"""Agreement and transport: who orders transactions, who carries packets."""
