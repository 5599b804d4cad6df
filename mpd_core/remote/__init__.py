"""Experts on other machines: the next-token distributions of a completions server."""
