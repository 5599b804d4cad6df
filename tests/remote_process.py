"""Starts ``tests.remote_server`` in its own process, tells it to misbehave, and stops it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.fresh_python import ROOT

KEY = "sk-test-0123456789"
PROMPTS = [[5, 9, 33, 7], [1], [400, 3, 200, 17, 88, 260], [5, 9]]


class RemoteServer:
    """A completion server in another process."""

    def __init__(self, process: subprocess.Popen[str], port: int, scheme: str) -> None:
        self._process, self.port, self.host = process, port, f"127.0.0.1:{port}"
        self.url = f"{scheme}://{self.host}/v1"
        self._control = f"{scheme}://{self.host}/control"

    def fault(self, name: str, **options: Any) -> None:
        """Misbehave from now on.

        Args:
            name: see ``tests.remote_server``.
            options: ``times`` (default: until healed), ``model`` (default: all), and the fault's.
        """
        httpx.post(self._control, json={"name": name, **options}, trust_env=False)

    def heal(self) -> None:
        """Behave, and forget what was asked."""
        httpx.post(self._control, json={}, trust_env=False)

    def asked(self) -> list[dict[str, Any]]:
        """The bodies of all completion requests since it was healed, refused ones included.

        Beside the body: ``authorization``, ``client`` (its port: one connection), ``fault``.
        """
        asked: list[dict[str, Any]] = httpx.get(self._control, trust_env=False).json()
        return asked

    def kill(self) -> None:
        """End the process as a crash would, in the middle of whatever it does."""
        self._process.kill()
        self._process.wait()


@contextmanager
def serve(
    base: Path, *, adapters: dict[str, Path] | None = None, options: tuple[str, ...] = ()
) -> Iterator[RemoteServer]:
    """Run a server for the time of a ``with``; ``options`` are those of its command line."""
    names = [f"--adapter={name}={folder}" for name, folder in (adapters or {}).items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.remote_server", str(base), *names, *options],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    with process.stdout:
        try:
            port = int(process.stdout.readline() or 0)
            assert port, "the server did not start: see its messages above"
            yield RemoteServer(process, port, "https" if "--certificate" in options else "http")
        finally:
            process.kill()
            process.wait()
