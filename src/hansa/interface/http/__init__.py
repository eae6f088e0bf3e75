"""The HTTP application, one route file for each module."""
