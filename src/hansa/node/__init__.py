"""The composition root: a home folder becomes storage, chains, engine, read model and relay."""
