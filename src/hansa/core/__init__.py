"""The ledger itself: what is signed, hashed, proven and applied."""
