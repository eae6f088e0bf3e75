"""Products as their sellers describe them, with every revision kept."""
