"""Trade: one folder for each module, all of one shape."""
