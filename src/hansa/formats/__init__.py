"""Other people's formats, parsed and built without I/O."""
