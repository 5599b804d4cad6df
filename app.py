"""MPD Studio: settings, engine, page. Hugging Face Spaces runs this file."""

import argparse
import contextlib
import sys

with contextlib.suppress(ImportError):
    import spaces  # noqa: F401  (ZeroGPU wants to be imported before torch)

from mpd_core.console import escape_what_is_lacking
from mpd_core.engine import Engine
from mpd_core.errors import MPDError
from mpd_core.packs import load_pack
from mpd_core.ui.opening import Opening
from mpd_core.ui.server import serve


def main() -> int:
    """Read settings, open the engine, serve the page; 2 after an error that was explained."""
    parser = argparse.ArgumentParser(description="Serve MPD Studio's page.")
    parser.add_argument("--pack", help="name or folder of a pack (default: MPD_PACK)")
    parser.add_argument("--quantize", choices=("nf4", "none"), help="precision of the base")
    parser.add_argument("--port", type=int, help="default: GRADIO_SERVER_PORT, then 7860")
    args = parser.parse_args()
    escape_what_is_lacking()
    try:
        pack = load_pack(args.pack)
        host = Opening(pack, lambda tell: Engine.open(pack, quantize=args.quantize, progress=tell))
        with contextlib.closing(host), contextlib.suppress(KeyboardInterrupt):
            serve(host, host=None, port=args.port)
    except MPDError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
