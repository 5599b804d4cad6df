"""A real vLLM server on the CPU, in the environment that setup.sh makes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

SETUP = Path(__file__).with_name("setup.sh")
START_SECONDS = 600
MAX_LOGPROBS = 100


def environment() -> Path:
    """The virtual environment with vLLM, made if need be."""
    run = subprocess.run([SETUP], stdout=subprocess.PIPE, text=True, check=True)
    return Path(run.stdout.splitlines()[-1])


@contextmanager
def vllm_serve(base: Path, adapters: dict[str, Path], log: Path) -> Iterator[str]:
    """Serve a base as ``base`` and its LoRA modules by name; yields the API's base url."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = (
        "--host 127.0.0.1 --dtype float32 --max-model-len 1024 --enforce-eager --enable-lora"
        " --max-lora-rank 16 --enable-prefix-caching --served-model-name base"
        f" --max-loras {len(adapters)} --max-logprobs {MAX_LOGPROBS} --port {port} --lora-modules"
    )
    modules = [f"{name}={folder}" for name, folder in adapters.items()]
    variables = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [environment() / "bin" / "vllm", "serve", base, *options.split(), *modules],
            env={**os.environ, **variables},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its engine is another process: both are ended by the group
        )
        try:
            _wait(process, port, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            _stop(process)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).raise_for_status()
        except httpx.HTTPError:
            time.sleep(1)
        else:
            return
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
    raise AssertionError(f"vLLM did not start within {START_SECONDS} s; its last lines:\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(timeout=30)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
