"""A completion server for tests: write ``pytest_plugins = ["tests.remote_fixtures"]``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoConfig

from mpd_core.packs import RemoteTable
from tests import tiny
from tests.remote_process import KEY, RemoteServer, serve

ADAPTERS = ("one", "two", "three")


@pytest.fixture(scope="session")
def remote_adapters(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of random adapters on the tiny base, by the names under which they are served."""
    folder = tmp_path_factory.mktemp("remote")
    return {
        name: tiny.save_adapter(tiny_base, folder / name, rank=2 + index, seed=100 + index)
        for index, name in enumerate(ADAPTERS)
    }


@pytest.fixture(scope="session")
def remote_process(tiny_base: Path, remote_adapters: dict[str, Path]) -> Iterator[RemoteServer]:
    """One server a run, of the tiny base and its adapters; use ``remote_server``."""
    with serve(tiny_base, adapters=remote_adapters, options=("--key", KEY)) as server:
        yield server


@pytest.fixture
def remote_server(
    remote_process: RemoteServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RemoteServer]:
    """The server, healthy, with its key in ``MPD_TEST_KEY`` and no proxy in the way."""
    monkeypatch.setenv("MPD_TEST_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    remote_process.heal()
    yield remote_process
    remote_process.heal()


@pytest.fixture
def spec(remote_server: RemoteServer) -> RemoteTable:
    """Where the adapter "one" is served."""
    return RemoteTable(url=remote_server.url, model="one", api_key_env="MPD_TEST_KEY")


@pytest.fixture(scope="session")
def vocab_size(tiny_base: Path) -> int:
    """Width of the tiny base's logits."""
    return int(AutoConfig.from_pretrained(tiny_base).vocab_size)
