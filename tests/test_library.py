"""MPD Studio as a library: what it needs, what an installation holds, and six lines of Python."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mpd_core
from mpd_core import Engine, load_pack
from mpd_core.errors import RequestError
from tests.fresh_python import in_python

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def test_spaces_installs_what_the_package_needs() -> None:
    """Spaces reads requirements.txt alone; pip reads pyproject.toml."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == PROJECT["dependencies"]


def test_every_package_is_installed() -> None:
    found = {path.parent.relative_to(ROOT) for path in (ROOT / "mpd_core").rglob("__init__.py")}
    named = [".".join(folder.parts) for folder in sorted(found)]
    assert PYPROJECT["tool"]["setuptools"]["packages"] == [*named, "mpd_core.assets"]


def test_public_names_are_there_and_wait_for_torch() -> None:
    code = "import sys, mpd_core; mpd_core.load_pack(); print('torch' in sys.modules)"
    assert in_python(code) == "False"
    assert all(hasattr(mpd_core, name) for name in mpd_core.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Engin'"):
        mpd_core.Engin  # noqa: B018


def test_a_reply_in_six_lines(tiny_pack_dir: Path) -> None:
    pack = load_pack(str(tiny_pack_dir))
    with Engine.open(pack) as engine:
        steps = list(engine.submit(pack.request("Hi", "AB-", max_new_tokens=3)))
    assert 1 <= len(steps) <= 3
    assert all(sum(step.weights.values()) == pytest.approx(1) for step in steps)


def test_a_request_has_the_packs_own_settings() -> None:
    """None says nothing; letters are made capitals; a wrong one is told at once."""
    pack = load_pack()
    decode = pack.spec.decode
    request = pack.request("Hi", "aab", strength=None, temperature=0.5)
    assert (request.preference, request.space) == ("AAB", decode.space)
    assert request.strength == decode.strength
    assert request.sampling.temperature == 0.5
    assert request.sampling.dry_multiplier == decode.dry_multiplier
    assert pack.request("Hi", "AAB", strength=2.0).strength == 2.0
    with pytest.raises(RequestError, match="no pole"):
        pack.request("Hi", "AAX")
    with pytest.raises(TypeError, match="temprature"):
        pack.request("Hi", "AAB", temprature=1.0)


def test_a_wheel_holds_the_default_pack_and_the_page(tmp_path: Path) -> None:
    """Built by the setuptools that is here; what its command runs finds them."""
    for name in ("mpd_core", "assets", "pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).symlink_to(ROOT / name)
    build = "from setuptools import build_meta; print('wheel', build_meta.build_wheel('.'))"
    run = subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    wheel = zipfile.ZipFile(tmp_path / run.stdout.split()[-1])
    (points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert b"mpd-studio = mpd_core.__main__:run" in wheel.read(points)
    results = len(list((ROOT / "assets").glob("packs/*/RESULTS.md")))  # each with its pack
    assert sum(name.endswith("RESULTS.md") for name in wheel.namelist()) == results > 0
    wheel.extractall(tmp_path / "site")
    code = (
        "from mpd_core.packs import load_pack; from mpd_core.ui.assets import FOLDER;"
        "from mpd_core.evaluation.scales import BUILT_IN; from mpd_core.rendering import rendered;"
        "rendered('curves.html', title='', charts=[]); load_pack().verify_files();"
        "print(FOLDER / 'main.js', BUILT_IN, sep='\\n')"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "site",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for file in map(Path, told):
        assert file.is_file()
        assert (tmp_path / "site").resolve() in file.resolve().parents
