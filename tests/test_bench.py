"""The bench on the tiny model: peers say what the engine says, and the output can be read.

No test looks at a time: that is what the bench itself is for.
"""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from safetensors.torch import load_file

from mpd_core.bench import ours, peers
from mpd_core.bench.context import EXACT, ROUNDED, BenchContext, compare, memory
from mpd_core.bench.material import write_pack
from mpd_core.bench.run import MEASURE, run
from mpd_core.bench.values import (
    CPU_TARGETS,
    GPU_TARGETS,
    MEASURES,
    BenchError,
    BenchOptions,
    Spec,
    StepLogProbs,
    Timing,
)
from mpd_core.cli.soak import SoakResult
from mpd_core.console import aligned
from mpd_core.engine import Engine
from mpd_core.errors import RequestError
from mpd_core.packs import Precision, load_pack
from mpd_core.rendering import line_chart
from tests import tiny
from tests.test_blocks import MIXES, TEMPLATE
from tests.tiny_gguf import MEMBER, write_gguf, write_wheel

TOKENS = 6


@pytest.fixture(scope="module")
def benches(
    tiny_pack_dir: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., BenchContext]]:
    """Benches on the tiny base, by precision; their competitors run in this process."""
    folder: Path = tmp_path_factory.mktemp("bench")
    write_pack(folder / "pack", load_pack(tiny_pack_dir), tiny_base)
    made: dict[Precision, BenchContext] = {}

    def get(precision: Precision = "auto") -> BenchContext:
        if precision not in made:
            spec, options = Spec(folder, None, precision, "cpu"), BenchOptions(tokens=TOKENS)
            made[precision] = BenchContext(options, spec, apart=False)
        return made[precision]

    yield get
    for bench in made.values():
        bench.close()


@pytest.fixture
def bench(benches: Callable[..., BenchContext]) -> BenchContext:
    return benches()


def test_random_adapters_matter(bench: BenchContext) -> None:
    """Where experts do not disagree, that a peer is equal would prove little."""
    steps = bench.call("engine", Engine.generate, bench.ask(1, preference="AAB")).steps
    assert sum(step.disagreement for step in steps) / TOKENS > 0.01


@pytest.mark.parametrize("precision", ["auto", "fp32"])
@pytest.mark.parametrize("scheme", [peers.loop, peers.batch, peers.nocache])
def test_peft_schemes_are_the_engine(
    benches: Callable[..., BenchContext], scheme: Any, precision: Precision
) -> None:
    assert_same(benches(precision), EXACT, "peft", scheme, "AAB")


def test_separate_models_are_the_engine_but_for_rounding(
    benches: Callable[..., BenchContext],
) -> None:
    """Of the preference whose experts it holds."""
    assert_same(benches(), ROUNDED, "separate", peers.loop, "AAA")
    assert_same(benches("fp32"), EXACT, "separate", peers.loop, "AAA")


@pytest.mark.parametrize("method", ["vanilla", "soup"])
def test_plain_models_are_the_engine(benches: Callable[..., BenchContext], method: str) -> None:
    bench = benches("fp32")
    own = assert_same(bench, EXACT, "plain", peers.cached, "BAB", method)
    ask = bench.ask(1, method, preference="BAB")
    assert bench.call("plain", peers.generate, [ask]).tokens == [tokens_of(own)]


def assert_same(
    bench: BenchContext,
    tolerance: float,
    kind: str,
    scheme: Any,
    code: str,
    method: str = "mpd",
) -> StepLogProbs:
    """Equal distributions on the engine's tokens, and the same tokens when run alone."""
    ask = bench.ask(1, method, preference=code)
    own: StepLogProbs = bench.call("engine", ours.log_probs, ask)
    theirs: StepLogProbs = bench.call(kind, peers.replay, scheme, ask, own)
    assert compare(own, theirs)["max_log_prob_difference"] <= tolerance
    result: Timing = bench.call(kind, peers.decode, scheme, ask)
    assert result.tokens == [tokens_of(own)]
    assert len(result.stamps[0]) == TOKENS
    assert result.stamps[0] == sorted(result.stamps[0])
    return own


def tokens_of(steps: StepLogProbs) -> list[int]:
    return [token for token, _ in steps]


def test_a_crowd_says_what_each_says_alone(bench: BenchContext) -> None:
    asks = [bench.ask(1, "soup", preference=code) for code in ("AAA", "BBB", "AAA")]
    alone = [tokens_of(bench.call("engine", ours.log_probs, ask)) for ask in asks]
    assert bench.call("engine", ours.decode, asks).tokens == alone
    by_preference = [alone[0], alone[2], alone[1]]
    assert bench.call("engine", ours.grouped, asks).tokens == by_preference


def test_a_peer_that_computes_something_else_is_refused(bench: BenchContext) -> None:
    """Separate models hold the experts of another preference than this one."""
    bench.check("peft", peers.loop, bench.ask(), exact=True)
    with pytest.raises(BenchError, match="'plain, cached, mpd' does not give the engine's"):
        bench.check("plain", peers.cached, bench.ask(), exact=True)
    assert [check["tolerance"] for check in bench.checks] == [EXACT, EXACT]


def test_another_distribution_is_found() -> None:
    steps: StepLogProbs = [(1, {1: -0.1, 3: -3.0}), (2, {2: -0.2, 3: -2.0})]
    assert compare(steps, steps)["max_log_prob_difference"] == 0
    found = compare(steps, [steps[0], (3, {2: -0.2, 3: -2.5})])
    assert found["max_log_prob_difference"] == pytest.approx(0.5)
    assert found["same_choice"] == "1 of 2"
    broken = compare(steps, [(1, {1: -0.1, 3: float("nan")}), steps[1]])
    assert not broken["max_log_prob_difference"] <= EXACT


def test_memory_of_each_kind(bench: BenchContext, tiny_base: Path) -> None:
    weights = bench.call("engine", memory)["weights"]
    files = bench.pack.folder.glob("*/adapter_model.safetensors")
    factors = sum(path.stat().st_size for path in files) / 2  # fp32 there, fp16 here
    assert weights["adapters"] >= factors * 0.9  # and more for those that are laid out
    tensors = load_file(tiny_base / "model.safetensors").values()
    least = 2 * sum(tensor.numel() for tensor in tensors)
    assert least <= weights["base"] <= 1.1 * least
    assert bench.call("separate", memory)["weights"]["base"] >= 4 * least


def test_the_last_line_is_json_with_every_figure(
    tiny_pack_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = BenchOptions(pack=str(tiny_pack_dir), device="cpu")
    found = run(options.quick(), apart=False)
    *table, line = capsys.readouterr().out.splitlines()
    read = json.loads(line)
    assert read["figures"] == pytest.approx(found["figures"])
    assert set(read) == {"bench", "machine", "options", "figures", "targets", "checks", "data"}
    assert set(read["data"]) == set(MEASURES)
    wanted = {name for name in CPU_TARGETS | GPU_TARGETS if not name.startswith("vs_llama.")}
    assert wanted <= set(read["figures"])
    assert [name for name, value in read["figures"].items() if value is None] == ["vs_llama"]
    assert set(read["targets"]) == wanted & set(CPU_TARGETS)
    assert all(c["max_log_prob_difference"] <= c["tolerance"] for c in read["checks"])
    assert {"cpu", "cores", "torch", "threads", "precision", "date"} <= set(read["machine"])
    text = "\n".join(table)
    assert all(name in text for name in read["figures"])
    assert "not converted from a GGUF" in text or "pip install xllamacpp" in text
    assert all(name in text for name in read["data"]["growth"]["lines"])


def test_llama_cpp_runs_the_blocks_that_the_base_came_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain, in slots, and soups of its own adapters: what it says is what the engine says."""
    pytest.importorskip("xllamacpp")
    sha256 = write_gguf(tmp_path / "tiny.gguf", kinds=MIXES["Q4_1, output in 8 bits"])
    wheel = write_wheel(tmp_path, (tmp_path / "tiny.gguf").read_bytes())
    shutil.unpack_archive(wheel, tmp_path / "site", "zip")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("MPD_CACHE", str(tmp_path / "cache"))
    pack = tiny.write_pack(tmp_path, tmp_path / "base", extra=TEMPLATE)
    table = tomlkit.parse((pack / "pack.toml").read_text(encoding="utf-8"))
    table["base"]["source"] = {  # type: ignore[index]
        **{"kind": "gguf", "package": "tiny-base==1.0", "file": MEMBER, "sha256": sha256},
        **{"hub_repo": "nobody/tiny", "hub_revision": "0" * 40, "hub_file": "tiny.gguf"},
    }
    (pack / "pack.toml").write_text(tomlkit.dumps(table), encoding="utf-8")
    options = BenchOptions(only=("vs_llama",), pack=str(pack), device="cpu").quick()
    figures = run(options, apart=False)["figures"]
    assert "vs_llama.soups" in capsys.readouterr().out
    assert all(figures.values())
    assert figures["vs_llama.same_vanilla"] == figures["vs_llama.same_soup"] == 1.0


def test_a_competitor_in_a_process_of_its_own(bench: BenchContext) -> None:
    apart = replace(bench, apart=True, _executors={})
    try:
        ask = apart.ask()
        result: Timing = apart.call("engine", ours.decode, [ask, ask])
        assert len(result.tokens) == 2
        assert result.tokens[0] == result.tokens[1]
        with pytest.raises(RequestError, match="'Z' is no pole"):
            apart.call("engine", ours.decode, [apart.ask(preference="AAZ")])
        with pytest.raises(BenchError, match="'engine' failed: TypeError"):
            apart.call("engine", ours.decode, 1)
        assert apart.call("engine", Engine.status)["device"] == "cpu"  # it is still there
    finally:
        apart.close()


def test_every_measure_that_can_be_named_is_there() -> None:
    assert tuple(MEASURE) == MEASURES


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"only": ("tax", "speed")}, "Unknown measure 'speed'"),
        ({"only": ()}, "Unknown measure ''"),
        ({"tokens": 1}, "tokens is 1: give a whole number from 2"),
    ],
)
def test_bad_options(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        BenchOptions(**values)


def test_wide_pack_lets_many_experts_speak(
    tiny_pack_dir: Path, tiny_base: Path, tmp_path: Path
) -> None:
    folder = write_pack(tmp_path / "wide", load_pack(tiny_pack_dir), tiny_base, experts=5)
    pack = load_pack(folder)
    assert len(pack.space.parse("AAAA-").poles) == 4
    assert len(pack.spec.experts.adapters) == 5


def test_run_arithmetic() -> None:
    """Two requests: the second enters late, so both decode only from 3 s to 5 s."""
    result = Timing([[1, 2, 3, 4], [5, 6, 7]], [[1.0, 3.0, 4.0, 5.0], [3.0, 4.0, 6.0]])
    assert result.seconds == 6.0
    assert result.ms_per_token == pytest.approx(4000 / 3)
    assert result.together_ms == 1000.0
    assert Timing([[1, 2], [3, 4]], [[1.0, 2.0], [3.0, 4.0]]).together_ms is None


def test_tables_and_charts_are_well_formed() -> None:
    assert aligned([("a", "b"), ("long", "1")]).splitlines()[2] == "long  1"
    assert aligned([("only", "heading")]) == ""
    tree = xml.etree.ElementTree.fromstring(line_chart("<x> & y", {"a": [(1, 0.0), (64, 3.5)]}))
    assert tree.tag.endswith("svg")


def test_a_short_soak_tells_no_growth() -> None:
    """What a process holds anyway is not what it grew by."""
    result = SoakResult()
    for _ in range(4):
        result.sample()
    assert result.to_dict()["growth_mb"] is None
    result.memory[:] = [500, 600, 700, 700, 710]
    result.visits.append("finished")
    assert result.to_dict()["growth_mb"] == 110
    assert result.to_dict()["finished"] == 1
