"""Who agrees on each network's blocks, as governance on the anchor chain decides."""
