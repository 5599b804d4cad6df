"""Imports point one way, and the UI's libraries stay in the UI."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "mpd_core"
LAYERS = (
    {"errors"},
    {"request", "trace"},
    {"method"},
    {"packs"},
    {"prompts", "sampling", "charts", "console"},
    {"models"},
    {"experts"},
    {"engine"},
    {"training", "bench", "evaluation"},
    {"ui"},
    {"cli"},
    {"__main__"},
)
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            yield parts[0], path


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_imports_point_one_way() -> None:
    upward = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for layer, path in modules()
        for name in imports(path)
        if name.startswith("mpd_core.") and HEIGHT[name.split(".")[1]] > HEIGHT[layer]
    ]
    assert upward == []


def test_every_module_has_a_layer() -> None:
    assert {layer for layer, _ in modules()} <= set(HEIGHT)


def test_ui_libraries_stay_in_the_ui() -> None:
    strays = [
        str(path)
        for layer, path in modules()
        for name in imports(path)
        if name.split(".")[0] in ("gradio", "plotly", "spaces") and layer != "ui"
    ]
    assert strays == []


def test_values_and_scheduler_do_without_torch() -> None:
    light = {"errors", "request", "trace", "packs"}
    paths = [path for layer, path in modules() if layer in light]
    paths += [PACKAGE / "method" / name for name in ("__init__.py", "preferences.py", "static.py")]
    paths += [PACKAGE / "engine" / name for name in ("scheduler.py", "sequence.py", "stream.py")]
    assert not [p for p in paths if {"torch", "transformers"} & set(imports(p))]
