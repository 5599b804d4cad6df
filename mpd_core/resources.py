"""Where the files are that come with the code: packs, data, the page."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent
ASSETS = next(
    (folder for folder in (_HERE / "assets", _HERE.parent / "assets") if folder.is_dir()),
    _HERE.parent / "assets",
)
"""In the package where it was installed; beside it in a checkout."""
