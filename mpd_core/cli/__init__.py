"""The command line: ``python -m mpd_core``, installed as ``mpd-studio``."""

from mpd_core.cli.app import METHODS, main

__all__ = ["METHODS", "main"]
