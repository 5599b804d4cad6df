"""The command line: ``python -m mpd_core``, installed as ``mpd-studio``."""

from mpd_core.cli.app import main

__all__ = ["main"]
