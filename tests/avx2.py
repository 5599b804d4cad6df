"""Loops compiled as for a CPU that has AVX2 and nothing that came later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llvmlite import binding as llvm

from tests import tiny
from tests.fresh_python import in_python

BEYOND = ("avx512", "avx10", "amx", "avxvnni", "avxifma", "avxneconvert", "evex")
"""How features are called that came after AVX2, whose instructions have wider registers."""
GENERATES = """
import sys
from pathlib import Path
from numba.core import event
from mpd_core.cli import main
with event.install_listener("numba:run_pass", event.RecordingListener()) as seen:
    for space in ("probability", "logit", "strength"):
        assert main(["generate", "Hi", "--pack", sys.argv[1], "--space", space, *sys.argv[2:]]) == 0
held = Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]
print()
print(len(seen.buffer), int(held) // 1024)
"""
"""Commands of a program, then: passes of a compiler in its own process, and MB of no file."""


def environment(cache: Path) -> dict[str, str]:
    """Makes numba compile as on Haswell, and keep that apart."""
    features = llvm.get_host_cpu_features().items()
    said = ("-+"[has and not name.startswith(BEYOND)] + name for name, has in features)
    return {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": ",".join(said),
        "NUMBA_CACHE_DIR": str(cache),
    }


@dataclass(frozen=True)
class Started:
    """A program on a pack in blocks, started where no loop had been compiled."""

    environment: dict[str, str]
    """In which all of them are on disk now."""
    pack: Path
    said: str
    """Its last line; see ``GENERATES``."""

    def again(self, *arguments: str) -> str:
        """What another start says, of the same pack if no other is named."""
        return _generate(self.environment, *(arguments or (str(self.pack),)))


def start(folder: Path) -> Started:
    """The first start."""
    from tests.test_blocks import MIXES, TEMPLATE, converted  # which asks for this

    base = converted(folder / "x", kinds=MIXES["Q4_1, output in 8 bits"])
    options = {"adapters": True, "anchor": True, "pcm_trained": True}
    pack = tiny.write_pack(folder, base, prompt="plain", extra=TEMPLATE, **options)
    how = environment(folder / "loops")
    return Started(how, pack, _generate(how, str(pack)))


def _generate(how: dict[str, str], *arguments: str) -> str:
    code = f"import sys; sys.argv = {['', *arguments]!r}" + GENERATES
    return in_python(code, **how).splitlines()[-1]
