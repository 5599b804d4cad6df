"""``python -m mpd_core``."""

import sys

from mpd_core.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
