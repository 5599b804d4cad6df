"""Equal to the bit alone and in a crowd, whichever instructions the CPU has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import avx2, tiny
from tests.fresh_python import ROOT, in_python

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
CODE = """
import json, sys
import torch
from mpd_core.engine import Engine
from mpd_core.models import kernels
from mpd_core.models.linear import PackedLinear
from mpd_core.packs import load_pack
from tests.test_engine import ask

@kernels.compiled()
def double(x):  # of no file, so never from disk, where code cannot be looked into
    for i in range(len(x)):
        x[i] += x[i]

double(torch.ones(64).numpy())
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
    "wide": any("zmm" in code for code in double.inspect_asm().values()),
    "threads": [status["threads"], status["loop_threads"]],
}))
"""


@pytest.mark.parametrize("name", SETS)
def test_a_request_is_alone_what_it_is_in_a_crowd(
    name: str, tmp_path: Path, started_with_avx2: avx2.Started
) -> None:
    """In a process of its own, since libraries choose their kernels once."""
    base = tiny.save_base(tmp_path / "base")
    tiny.write_pack(tmp_path, base, dimensions=2, prompt="plain", adapters=True, pcm_trained=True)
    code = f"import sys; sys.argv = ['', {str(tmp_path)!r}]" + CODE
    loops = started_with_avx2.environment if name == "AVX2" else {}
    found: dict[str, Any] = json.loads(in_python(code, **SETS[name], **loops).splitlines()[-1])
    if name == "AVX2" and found["capability"] != "AVX2":
        pytest.skip(f"torch cannot be told to use AVX2 here: {found['capability']}")
    assert not (loops and found["wide"])
    assert found["unequal"] == []
    assert found["same"]
    assert found["crowd"] == "equal to the bit"
    assert found["lanes"] == ["equal to the bit"]
    assert found["threads"][0] == found["threads"][1] > 0


LOOPS = (
    *(f"{name}.py" for name in ("kernels", "levels", "layer_loops", "merge_loops", "step_loops")),
    "blocks.py::test_products_are_those_of_unpacked_weights",
    "blocks.py::test_a_row_and_an_output_do_not_depend_on_others",
)
"""Tests of what is compiled."""


def test_loops_are_right_with_avx2(started_with_avx2: avx2.Started) -> None:
    """In fewer and narrower registers, and four products take three instructions."""
    chosen = [*(f"tests/test_{name}" for name in LOOPS), "-k", "not openmp"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *chosen],
        cwd=ROOT,
        env={**os.environ, **started_with_avx2.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
