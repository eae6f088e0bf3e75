"""Routes parse, call once and return: one file for each module, and for each other door."""
