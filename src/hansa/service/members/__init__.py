"""Who takes part, what their accounts may do, and what they decide together."""
