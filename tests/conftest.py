"""A tiny random LLaMA with a byte-level tokenizer, and packs on top of it, made once a run."""

from __future__ import annotations

import os

# Before torch: many engines in one process would each keep a pool of threads, more than there are
# cores, and then every product waits for sleeping ones.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from mpd_core.engine import Engine
from mpd_core.models.linear import can_pack
from mpd_core.packs import Pack, load_pack
from tests import avx2, tiny
from tests.patience import pytest_timeout_set_timer as pytest_timeout_set_timer

# How long an example takes says what else the machine has to do.
SLOW = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("any machine", deadline=None, suppress_health_check=SLOW)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny LLaMA whose vocabulary has emoji, CJK and hostile tokens."""
    return tiny.save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tiny_pack_dir(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a pack with three dimensions over the tiny base, PCM untrained."""
    return tiny.write_pack(tmp_path_factory.mktemp("pack"), tiny_base, dimensions=3)


@pytest.fixture(scope="session")
def make_pack(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pack]:
    """Factory of packs over the tiny base; the arguments of ``tiny.write_pack``."""

    def make(**options: Any) -> Pack:
        return load_pack(tiny.write_pack(tmp_path_factory.mktemp("pack"), tiny_base, **options))

    return make


@pytest.fixture(scope="session")
def tiny_engine(tiny_pack_dir: Path) -> Iterator[Engine]:
    """An engine on the three-dimensional tiny pack."""
    engine = Engine.open(load_pack(tiny_pack_dir))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def started_with_avx2(tmp_path_factory: pytest.TempPathFactory) -> avx2.Started:
    """A program that has been started for a CPU with AVX2, for the first time."""
    if not can_pack():
        pytest.skip("this machine has no kernels for packed products, nor blocks")
    return avx2.start(tmp_path_factory.mktemp("avx2"))
