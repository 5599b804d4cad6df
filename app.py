"""MPD Studio's page, as Hugging Face Spaces starts it: ``python -m mpd_core serve``."""

import contextlib
import sys

with contextlib.suppress(ImportError):
    import spaces  # noqa: F401  (ZeroGPU wants to be imported before torch)

from mpd_core.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
