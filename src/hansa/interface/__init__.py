"""Doors for machines: the HTTP application and the client library."""
