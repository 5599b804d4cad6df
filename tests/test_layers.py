"""Imports point one way, and the UI's libraries stay in the UI."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "mpd_core"
LAYERS = """
    errors lazily resources apart
    saving fields rendering
    request trace
    method
    packs
    prompts sampling console options analysis
    models
    sources remote
    engine.plan
    engine
    training.measures
    training.pcm_recipe
    training.data training.recipe training.results training.checkpoint
    training.machine
    training.trunk training.rollouts
    training.context
    training.packed training.teacher_forcing training.adapters.fitting
    training.adapters
    training.export training.scoring training.pcm.batches
    training.pcm
    training.stages
    evaluation bench
    ui
    cli
    __main__
"""
"""From the bottom to the top; folders of folders by their longest name that stands here."""
HEIGHT = {name: height for height, row in enumerate(LAYERS.split("\n")) for name in row.split()}


def layer(module: str) -> str:
    """Where a module stands: the longest part of its name, after ``mpd_core.``, in the list."""
    parts = module.split(".")
    names = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((name for name in names if name in HEIGHT), module)


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] != "__init__" or len(parts) > 1:
            yield layer(".".join(p for p in parts if p != "__init__")), path


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows() -> Iterator[tuple[str, str, Path, str]]:
    """Layer, layer that it imports from, file and name."""
    for here, path in modules():
        for name in imports(path):
            if name.startswith("mpd_core."):
                yield here, layer(name.removeprefix("mpd_core.")), path, name


def test_imports_point_one_way() -> None:
    """Down the list, or within a layer: none up, and none between two of the same height."""
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for here, there, path, name in arrows()
        if here != there and HEIGHT[there] >= HEIGHT[here]
    ]
    assert wrong == []


def test_every_module_has_a_layer() -> None:
    assert {here for here, _ in modules()} - set(HEIGHT) == {"training"}  # its docstring alone


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
    heavy = {"torch", "transformers"}
    assert not [p for p in paths if heavy & {name.split(".")[0] for name in imports(p)}]
