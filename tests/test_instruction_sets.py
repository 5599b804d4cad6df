"""Equal to the bit alone and in a crowd, whichever instructions the CPU has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from llvmlite import binding as llvm

from mpd_core.models.linear import can_pack
from tests import tiny
from tests.fresh_python import in_python

SETS = {
    "AVX2": {
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    "this CPU's": {},
}
"""Switches of the libraries that multiply: fbgemm, torch itself, MKL and oneDNN."""
BEYOND = ("avx512", "avx10", "amx", "avxvnni", "avxifma", "avxneconvert", "evex")
"""How features are called that came after AVX2, whose instructions have wider registers."""


def compiled_for_avx2(cache: Path) -> dict[str, str]:
    """Environment in which numba compiles as on Haswell, which has AVX2, and keeps that apart."""
    features = llvm.get_host_cpu_features().items()
    said = ("-+"[has and not name.startswith(BEYOND)] + name for name, has in features)
    return {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": ",".join(said),
        "NUMBA_CACHE_DIR": str(cache),
    }


CODE = """
import json, sys
import torch
from mpd_core.engine import Engine
from mpd_core.models import kernels
from mpd_core.models.linear import PackedLinear
from mpd_core.packs import load_pack
from tests.test_engine import ask

torch.manual_seed(0)
unequal = []
for size in ((64, 64), (405, 64), (96, 576)):
    product, x = PackedLinear(torch.randn(size)), torch.randn(270, size[1])
    whole = product(x)
    for count in (*range(1, 70), 119, 120, 121, 122, 127, 128, 150, 240, 241, 255, 256, 257, 270):
        for first in {0, 270 - count}:
            if not torch.equal(product(x[first : first + count]), whole[first : first + count]):
                unequal.append((size, count, first))

engine = Engine.open(load_pack(sys.argv[1]), kept_rows=0)
mine = ask("the cat sat on the mat", "AB", max_new_tokens=16, temperature=1.0, seed=3)
alone = engine.generate(mine).steps
words = ("Hi", "another word or two", "explain " * 20)
others = [ask(w, c, max_new_tokens=40, seed=i) for i, w in enumerate(words) for c in ("AA", "BB")]
crowd = [engine.submit(request) for request in others[:4]]
stream = engine.submit(mine)
crowd += [engine.submit(request) for request in others[4:]]
together = tuple(stream)
status = engine.status()
for other in crowd:
    other.cancel()
engine.close()
print(json.dumps({
    "capability": torch.backends.cpu.get_cpu_capability(),
    "unequal": unequal,
    "same": [(s.token_id, s.logprobs, s.weights, s.probability) for s in alone]
    == [(s.token_id, s.logprobs, s.weights, s.probability) for s in together],
    "crowd": status["crowd"],
    "lanes": sorted({lane["crowd"] for lane in status["models"].values()}),
    "wide": any("zmm" in code for code in kernels.add_norm.inspect_asm().values()),
    "threads": [status["threads"], status["loop_threads"]],
}))
"""


@pytest.mark.parametrize("name", SETS)
def test_a_request_is_alone_what_it_is_in_a_crowd(name: str, tmp_path: Path) -> None:
    """In a process of its own, since libraries choose their kernels once."""
    if not can_pack():
        pytest.skip("this machine has no kernels for packed products")
    base = tiny.save_base(tmp_path / "base")
    tiny.write_pack(tmp_path, base, dimensions=2, prompt="plain", adapters=True, pcm_trained=True)
    code = f"import sys; sys.argv = ['', {str(tmp_path)!r}]" + CODE
    loops = compiled_for_avx2(tmp_path / "loops") if name == "AVX2" else {}
    found: dict[str, Any] = json.loads(in_python(code, **SETS[name], **loops).splitlines()[-1])
    if name == "AVX2" and found["capability"] != "AVX2":
        pytest.skip(f"torch cannot be told to use AVX2 here: {found['capability']}")
    assert not (loops and found["wide"])
    assert found["unequal"] == []
    assert found["same"]
    assert found["crowd"] == "equal to the bit"
    assert found["lanes"] == ["equal to the bit"]
    assert found["threads"][0] == found["threads"][1] > 0
