"""The command line: ``python -m mpd_core``."""
