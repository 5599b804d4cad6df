"""The bench on the tiny model: peers say what the engine says, and the output can be read.

No test looks at a time: that is what the bench itself is for.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpd_core.bench.context import EXACT, ROUNDED, compare
from mpd_core.bench.material import shapes_of, write_pack
from mpd_core.bench.options import CPU_TARGETS, GPU_TARGETS, MEASURES, BenchError, BenchOptions
from mpd_core.bench.peer_pool import COMPETITORS, InProcess, OwnProcess
from mpd_core.bench.report import aligned
from mpd_core.bench.roofline import Rows, Shapes, roofline, step_cost
from mpd_core.bench.run import MEASURE, run
from mpd_core.bench.soak import SoakResult
from mpd_core.bench.values import Ask, Run, Said, Spec
from mpd_core.charts import panel
from mpd_core.errors import RequestError
from mpd_core.packs import Pack, load_pack
from tests import tiny
from tests.test_blocks import MIXES, TEMPLATE, converted

ASK = Ask("Why is the sky blue?", "AAB")
TOKENS = 6


@pytest.fixture(scope="module")
def bench_pack(tiny_pack_dir: Path, tiny_base: Path, tmp_path_factory: Any) -> Pack:
    """The bench's own pack over the tiny base."""
    folder: Path = tmp_path_factory.mktemp("bench") / "pack"
    return load_pack(write_pack(folder, load_pack(tiny_pack_dir), tiny_base, seed=0))


@pytest.fixture(scope="module")
def side(bench_pack: Pack) -> Iterator[Callable[..., InProcess]]:
    """Competitors in this process, made once."""
    made: dict[tuple[str, bool], InProcess] = {}

    def get(kind: str, fp32: bool = False) -> InProcess:
        if (kind, fp32) not in made:
            precision = "fp32" if fp32 else "auto"
            spec = Spec(kind, bench_pack.folder, precision, "cpu", half_weights=fp32)  # type: ignore[arg-type]
            made[kind, fp32] = InProcess(spec)
        return made[kind, fp32]

    yield get
    for competitor in made.values():
        competitor.close()


def test_random_adapters_matter(side: Callable[..., InProcess]) -> None:
    assert side("engine").call("said", ASK, TOKENS).disagreement > 0.01


@pytest.mark.parametrize("fp32", [False, True])
@pytest.mark.parametrize("scheme", ["loop", "batch", "nocache"])
def test_peft_schemes_are_the_engine(
    side: Callable[..., InProcess], scheme: str, *, fp32: bool
) -> None:
    assert_same(side, ASK, EXACT, "peft", scheme, fp32=fp32)


def test_separate_models_are_the_engine_but_for_rounding(side: Callable[..., InProcess]) -> None:
    first = Ask(ASK.prompt, "AAA")  # the preference whose experts it holds
    assert_same(side, first, ROUNDED, "separate", "separate")
    assert_same(side, first, EXACT, "separate", "separate", fp32=True)


@pytest.mark.parametrize("method", ["vanilla", "soup"])
def test_plain_models_are_the_engine(side: Callable[..., InProcess], method: str) -> None:
    assert_same(side, Ask(ASK.prompt, "BAB", method), EXACT, "plain", "cached", fp32=True)


def assert_same(
    side: Callable[..., InProcess],
    ask: Ask,
    tolerance: float,
    kind: str,
    scheme: str,
    *,
    fp32: bool = False,
) -> None:
    """Equal distributions on the engine's tokens, and the same tokens when run alone."""
    said: Said = side("engine").call("said", ask, TOKENS)
    peer = side(kind, fp32)
    heard: Said = peer.call("replay", scheme, ask, said)
    assert compare(kind, said, heard, tolerance).max_log_prob_difference <= tolerance
    way = ("generate",) if kind == "plain" else ("decode", scheme)
    result = peer.call(*way, (ask,), TOKENS)
    assert result.tokens == (said.tokens,)
    assert len(result.stamps[0]) == TOKENS
    assert list(result.stamps[0]) == sorted(result.stamps[0])


def test_a_crowd_says_what_each_says_alone(side: Callable[..., InProcess]) -> None:
    engine = side("engine")
    asks = tuple(Ask(ASK.prompt, code, "soup") for code in ("AAA", "BBB", "AAA"))
    alone = [engine.call("said", ask, TOKENS).tokens for ask in asks]
    assert list(engine.call("decode", asks, TOKENS).tokens) == alone
    by_preference = [alone[0], alone[2], alone[1]]
    assert list(engine.call("grouped", asks, TOKENS).tokens) == by_preference


def test_another_distribution_is_found() -> None:
    said = Said((1, 2), ((-0.1, -3.0), (-0.2, -2.0)), (0.5, 0.6), ((1, 3), (2, 3)))
    assert compare("same", said, said, EXACT).max_log_prob_difference == 0
    other = Said((1, 3), ((-0.1, -3.0), (-0.2, -2.5)), said.entropies)
    found = compare("other", said, other, EXACT)
    assert found.max_log_prob_difference == pytest.approx(0.5)
    assert found.same_choice == "1 of 2"
    broken = Said((1, 2), said.log_probs, (0.5, float("nan")))
    assert not compare("broken", said, broken, EXACT).max_log_prob_difference <= EXACT


def test_memory_of_each_kind(side: Callable[..., InProcess], bench_pack: Pack) -> None:
    weights = side("engine").call("memory")["weights"]
    files = bench_pack.folder.glob("*/adapter_model.safetensors")
    factors = sum(path.stat().st_size for path in files) / 2  # fp32 there, fp16 here
    assert weights["adapters"] >= factors * 0.9  # and more for those that are laid out
    shapes = shapes_of(Path(bench_pack.spec.base.source.folder), bench_pack)  # type: ignore[union-attr]
    dense = sum(width * height for width, height in shapes.linears.values())
    least = 2 * (dense + 2 * shapes.vocabulary * shapes.hidden)
    assert least <= weights["base"] <= 1.1 * least
    assert side("separate").call("memory")["weights"]["base"] >= 4 * least


def test_the_last_line_is_json_with_every_figure(
    tiny_pack_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = BenchOptions(pack=str(tiny_pack_dir), device="cpu", out=tmp_path, fp32_peers=False)
    found = run(options.quick(), apart=False)
    *table, line = capsys.readouterr().out.splitlines()
    read = json.loads(line)
    assert read["figures"] == pytest.approx(found["figures"])
    assert set(read) == {"bench", "machine", "options", "figures", "targets", "checks", "data"}
    assert set(read["data"]) == {*MEASURES, "fairness"}
    assert set(CPU_TARGETS) | set(GPU_TARGETS) <= set(read["figures"])
    absent = {name for name, value in read["figures"].items() if value is None}
    assert absent == {name for name in read["figures"] if name.startswith("vs_llama.")}
    assert set(read["targets"]) == set(CPU_TARGETS) - absent
    assert all(c["max_log_prob_difference"] <= c["tolerance"] for c in read["checks"])
    assert {"cpu", "cores", "torch", "threads", "precision", "date"} <= set(read["machine"])
    text = "\n".join(table)
    assert all(name in text for name in read["figures"])
    assert "bound by" in text
    assert "not converted from a GGUF" in text or "pip install xllamacpp" in text
    growth = json.loads((tmp_path / "growth.json").read_text(encoding="utf-8"))
    assert growth["lines"] == read["data"]["growth"]["lines"]
    assert (tmp_path / "growth.html").read_text(encoding="utf-8").count("<svg") == 2 * len(
        growth["lines"]
    )


def test_llama_cpp_runs_the_blocks_that_the_base_came_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain, in slots, and soups of its own adapters: what it says is what the engine says."""
    pytest.importorskip("xllamacpp")
    base = converted(tmp_path / "x", kinds=MIXES["Q4_1, output in 8 bits"])
    pack = tiny.write_pack(tmp_path, base, extra=TEMPLATE)
    options = BenchOptions(only=("vs_llama",), pack=str(pack), device="cpu").quick()
    figures = run(options, apart=False)["figures"]
    assert "vs_llama.soups" in capsys.readouterr().out
    assert all(figures.values())
    assert figures["vs_llama.same_vanilla"] == figures["vs_llama.same_soup"] == 1.0


def test_a_competitor_in_a_process_of_its_own(bench_pack: Pack) -> None:
    engine = OwnProcess(Spec("engine", bench_pack.folder, "auto", "cpu"))
    try:
        result: Run = engine.call("decode", (ASK, ASK), TOKENS)
        assert len(result.tokens) == 2
        assert result.tokens[0] == result.tokens[1]
        with pytest.raises(BenchError, match="'Z' is no pole"):
            engine.call("decode", (Ask("hi", "AAZ"),), TOKENS)
        assert engine.call("info")["device"] == "cpu"  # it is still there
    finally:
        engine.close()


def test_every_measure_has_competitors_that_there_are() -> None:
    assert set(MEASURE) == {*MEASURES, "fairness"}
    assert all(kinds <= set(COMPETITORS) for _, kinds in MEASURE.values())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"only": ("tax", "speed")}, "Unknown measure 'speed'"),
        ({"tokens": 1}, "tokens is 1: give a whole number from 2"),
    ],
)
def test_bad_options(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        BenchOptions(**values)


def test_wide_pack_lets_many_experts_speak(
    tiny_pack_dir: Path, tiny_base: Path, tmp_path: Path
) -> None:
    folder = write_pack(tmp_path / "wide", load_pack(tiny_pack_dir), tiny_base, 0, experts=5)
    pack = load_pack(folder)
    assert len(pack.space.parse("AAAA-").poles) == 4
    assert len(pack.spec.experts.adapters) == 5


def test_run_arithmetic() -> None:
    """Two requests: the second enters late, so both decode only from 3 s to 5 s."""
    result = Run(((1, 2, 3, 4), (5, 6, 7)), ((1.0, 3.0, 4.0, 5.0), (3.0, 4.0, 6.0)))
    assert result.seconds == 6.0
    assert result.ms_per_token == pytest.approx(4000 / 3)
    assert result.first_ms == [1000.0, 3000.0]
    assert result.together_ms == 1000.0
    assert Run(((1, 2), (3, 4)), ((1.0, 2.0), (3.0, 4.0))).together_ms is None


def test_step_cost_by_hand() -> None:
    """One linear [2, 3], V = 5, D = 2, one layer with one head of 2: countable by hand."""
    shapes = Shapes({"a": (2, 3)}, 5, 2, 1, 1, 1, 2, {"a": (2, 3)})
    plain = step_cost(shapes, Rows(1), "fp32", cpu=True)
    assert plain == (4 * (6 + 10), 2 * (6 + 10))
    rows = Rows(experts=2, pcms=1, adapters=3, context=4)
    mpd = step_cost(shapes, rows, "fp16 (fp32 compute)", cpu=True)
    adapter, cache = 8 * (2 + 3), 2 * 2 * 4
    assert mpd[0] == 2 * (16 + 3 * adapter) + 4 * 3 * cache
    assert mpd[1] == 2 * (3 * 6 + 2 * 10 + 3 * adapter) + 3 * (4 * 2 * 4)
    assert roofline(plain, 64e3, 1e9) == (1.0, "memory")


def test_tables_and_charts_are_well_formed() -> None:
    assert aligned([("a", "b"), ("long", "1")]).splitlines()[2] == "long  1"
    assert aligned([("only", "heading")]) == ""
    tree = xml.etree.ElementTree.fromstring(panel("<x> & y", [(1, 0.0), (64, 3.5)], log_x=True))
    assert tree.tag.endswith("svg")


def test_a_short_soak_tells_no_growth() -> None:
    """What a process holds anyway is not what it grew by."""
    result = SoakResult()
    for _ in range(4):
        result.sample()
    assert result.to_dict()["growth_mb"] is None
    result.memory[:] = [500, 600, 700, 700, 710]
    result.count("finished")
    assert result.to_dict()["growth_mb"] == 110
    assert result.to_dict()["finished"] == 1
