"""``python -m mpd_core``, and ``mpd-studio`` where it is installed."""

import sys

from mpd_core.cli import main


def run() -> None:
    """Run a command and leave with its exit code."""
    sys.exit(main())


if __name__ == "__main__":
    run()
