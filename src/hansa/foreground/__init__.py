"""Doors for people: the command line and the pages."""
