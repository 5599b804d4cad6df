"""Time limits of tests: a starved one goes on; one that stands still or never ends is ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import Watch, processor_seconds

ROOT = Path(__file__).resolve().parents[1]


class Machine:
    """A clock, and a test that gets a share of a core."""

    def __init__(self, share: float, limit: float = 300.0, cores: int = 2) -> None:
        self.now, self.share = 0.0, share
        self.watch = Watch(limit, lambda: self.now * self.share, lambda: self.now, cores)

    def ended_after(self, most: float) -> float | None:
        while self.now < most:
            self.now += self.watch.limit
            if not self.watch.goes_on():
                return self.now
        return None


@pytest.mark.parametrize(
    ("share", "ended"), [(0.2, None), (0.06, None), (0.01, 300.0), (0.0, 300.0), (1.0, 600.0)]
)
def test_a_starved_test_goes_on_and_an_endless_one_is_ended(
    share: float, ended: float | None
) -> None:
    assert Machine(share).ended_after(2700) == ended


def test_children_that_have_ended_count() -> None:
    before = processor_seconds()
    subprocess.run([sys.executable, "-c", "sum(range(10**7))"], check=True)
    assert processor_seconds() - before > 0.05


TESTS = """
import time

def test_works():
    for _ in range(60):  # half of the time, so that the alarm goes at least once
        end = time.process_time() + 0.006
        while time.process_time() < end:
            pass
        time.sleep(0.006)

def test_stands_still():
    time.sleep(3600)
"""


def test_a_test_that_stands_still_is_ended_and_one_that_works_is_not(tmp_path: Path) -> None:
    """In a real pytest, by the hook that these tests have."""
    (tmp_path / "conftest.py").write_text("from tests.patience import *", encoding="utf-8")
    (tmp_path / "test_it.py").write_text(TESTS, encoding="utf-8")
    options = ["-q", "--timeout", "0.5", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path / "test_it.py")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "1 failed, 1 passed" in done.stdout
    assert "test_stands_still" in done.stdout
    assert "Timeout" in done.stdout
