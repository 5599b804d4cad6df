"""Where the files are that come with the code: packs, data, the page."""

from pathlib import Path

MOST_BYTES = 1 << 20
"""Of a file of settings. A TOML of some megabytes can be made that takes hours to read."""
_HERE = Path(__file__).resolve().parent
ASSETS = next(
    (folder for folder in (_HERE / "assets", _HERE.parent / "assets") if folder.is_dir()),
    _HERE.parent / "assets",
)
"""In the package where it was installed; beside it in a checkout."""


def read_settings(file: Path) -> bytes:
    """A file of settings as it is; errors as ``read_settings_text``."""
    with file.open("rb") as stream:  # a device has no end, and no size that says so
        raw = stream.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes, and a file of settings has fewer")
    return raw


def read_settings_text(file: Path) -> str:
    """What a file of settings says, without a mark of byte order.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no UTF-8, or longer than such a file can be.
    """
    return read_settings(file).decode("utf-8-sig")
