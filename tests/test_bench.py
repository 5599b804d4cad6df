"""The bench on the tiny model: peers say what the engine says, and the output can be read.

No test looks at a time: that is what the bench itself is for.
"""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from mpd_core.bench.context import EXACT, ROUNDED, compare
from mpd_core.bench.material import shapes_of, write_pack
from mpd_core.bench.options import CPU_TARGETS, GPU_TARGETS, MEASURES, BenchError, BenchOptions
from mpd_core.bench.peer_pool import COMPETITORS, Competitor
from mpd_core.bench.report import aligned
from mpd_core.bench.roofline import Rows, Shapes, roofline, step_cost
from mpd_core.bench.run import MEASURE, run
from mpd_core.bench.soak import SoakResult
from mpd_core.bench.values import Query, Spec, StepLogProbs, Timing
from mpd_core.charts import panel
from mpd_core.engine import Engine
from mpd_core.errors import RequestError
from mpd_core.packs import Pack, load_pack
from mpd_core.request import GenerationRequest, Message, Sampling
from tests import tiny
from tests.test_blocks import MIXES, TEMPLATE
from tests.tiny_gguf import MEMBER, write_gguf, write_wheel

ASK = Query("Why is the sky blue?", "AAB")
TOKENS = 6


@pytest.fixture(scope="module")
def bench_pack(tiny_pack_dir: Path, tiny_base: Path, tmp_path_factory: Any) -> Pack:
    """The bench's own pack over the tiny base."""
    folder: Path = tmp_path_factory.mktemp("bench") / "pack"
    return load_pack(write_pack(folder, load_pack(tiny_pack_dir), tiny_base, seed=0))


@pytest.fixture(scope="module")
def side(bench_pack: Pack) -> Iterator[Callable[..., Competitor]]:
    """Competitors in this process, made once."""
    made: dict[tuple[str, bool], Competitor] = {}

    def get(kind: str, fp32: bool = False) -> Competitor:
        if (kind, fp32) not in made:
            precision = "fp32" if fp32 else "auto"
            spec = Spec(kind, bench_pack.folder, precision, "cpu", half_weights=fp32)  # type: ignore[arg-type]
            made[kind, fp32] = Competitor(spec, apart=False)
        return made[kind, fp32]

    yield get
    for competitor in made.values():
        competitor.close()


def test_random_adapters_matter(bench_pack: Pack) -> None:
    """Where experts do not disagree, that a peer is equal would prove little."""
    with closing(Engine.open(bench_pack)) as engine:
        request = GenerationRequest((Message("user", ASK.prompt),), ASK.preference)
        steps = engine.generate(replace(request, sampling=Sampling(max_new_tokens=TOKENS))).steps
    assert sum(step.disagreement for step in steps) / TOKENS > 0.01


@pytest.mark.parametrize("fp32", [False, True])
@pytest.mark.parametrize("scheme", ["loop", "batch", "nocache"])
def test_peft_schemes_are_the_engine(
    side: Callable[..., Competitor], scheme: str, *, fp32: bool
) -> None:
    assert_same(side, ASK, EXACT, "peft", scheme, fp32=fp32)


def test_separate_models_are_the_engine_but_for_rounding(side: Callable[..., Competitor]) -> None:
    first = Query(ASK.prompt, "AAA")  # the preference whose experts it holds
    assert_same(side, first, ROUNDED, "separate", "separate")
    assert_same(side, first, EXACT, "separate", "separate", fp32=True)


@pytest.mark.parametrize("method", ["vanilla", "soup"])
def test_plain_models_are_the_engine(side: Callable[..., Competitor], method: str) -> None:
    assert_same(side, Query(ASK.prompt, "BAB", method), EXACT, "plain", "cached", fp32=True)


def assert_same(
    side: Callable[..., Competitor],
    ask: Query,
    tolerance: float,
    kind: str,
    scheme: str,
    *,
    fp32: bool = False,
) -> None:
    """Equal distributions on the engine's tokens, and the same tokens when run alone."""
    said: StepLogProbs = side("engine").call("said", ask, TOKENS)
    peer = side(kind, fp32)
    heard: StepLogProbs = peer.call("replay", scheme, ask, said)
    assert compare(kind, said, heard, tolerance).max_log_prob_difference <= tolerance
    way = ("generate", (ask,)) if kind == "plain" else ("decode", scheme, ask)
    result = peer.call(*way, TOKENS)
    assert result.tokens == (tokens_of(said),)
    assert len(result.stamps[0]) == TOKENS
    assert list(result.stamps[0]) == sorted(result.stamps[0])


def tokens_of(said: StepLogProbs) -> tuple[int, ...]:
    return tuple(token for token, _ in said)


def test_a_crowd_says_what_each_says_alone(side: Callable[..., Competitor]) -> None:
    engine = side("engine")
    asks = tuple(Query(ASK.prompt, code, "soup") for code in ("AAA", "BBB", "AAA"))
    alone = [tokens_of(engine.call("said", ask, TOKENS)) for ask in asks]
    assert list(engine.call("decode", asks, TOKENS).tokens) == alone
    by_preference = [alone[0], alone[2], alone[1]]
    assert list(engine.call("grouped", asks, TOKENS).tokens) == by_preference


def test_another_distribution_is_found() -> None:
    said: StepLogProbs = ((1, {1: -0.1, 3: -3.0}), (2, {2: -0.2, 3: -2.0}))
    assert compare("same", said, said, EXACT).max_log_prob_difference == 0
    found = compare("other", said, (said[0], (3, {2: -0.2, 3: -2.5})), EXACT)
    assert found.max_log_prob_difference == pytest.approx(0.5)
    assert found.same_choice == "1 of 2"
    broken = compare("broken", said, ((1, {1: -0.1, 3: float("nan")}), said[1]), EXACT)
    assert not broken.max_log_prob_difference <= EXACT


def test_memory_of_each_kind(side: Callable[..., Competitor], bench_pack: Pack) -> None:
    weights = side("engine").call("memory")["weights"]
    files = bench_pack.folder.glob("*/adapter_model.safetensors")
    factors = sum(path.stat().st_size for path in files) / 2  # fp32 there, fp16 here
    assert weights["adapters"] >= factors * 0.9  # and more for those that are laid out
    shapes = shapes_of(Path(bench_pack.spec.base.source.folder), bench_pack)  # type: ignore[union-attr]
    least = 2 * (shapes.weights + 2 * shapes.output)
    assert least <= weights["base"] <= 1.1 * least
    assert side("separate").call("memory")["weights"]["base"] >= 4 * least


def test_the_last_line_is_json_with_every_figure(
    tiny_pack_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = BenchOptions(pack=str(tiny_pack_dir), device="cpu", fp32_peers=False)
    found = run(options.quick(), apart=False)
    *table, line = capsys.readouterr().out.splitlines()
    read = json.loads(line)
    assert read["figures"] == pytest.approx(found["figures"])
    assert set(read) == {"bench", "machine", "options", "figures", "targets", "checks", "data"}
    assert set(read["data"]) == set(MEASURES)
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


def test_a_competitor_in_a_process_of_its_own(bench_pack: Pack) -> None:
    engine = Competitor(Spec("engine", bench_pack.folder, "auto", "cpu"))
    try:
        result: Timing = engine.call("decode", (ASK, ASK), TOKENS)
        assert len(result.tokens) == 2
        assert result.tokens[0] == result.tokens[1]
        with pytest.raises(BenchError, match="'Z' is no pole"):
            engine.call("decode", (Query("hi", "AAZ"),), TOKENS)
        assert engine.call("info")["device"] == "cpu"  # it is still there
    finally:
        engine.close()


def test_every_measure_has_competitors_that_there_are() -> None:
    assert tuple(MEASURE) == MEASURES
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
    result = Timing(((1, 2, 3, 4), (5, 6, 7)), ((1.0, 3.0, 4.0, 5.0), (3.0, 4.0, 6.0)))
    assert result.seconds == 6.0
    assert result.ms_per_token == pytest.approx(4000 / 3)
    assert result.first_ms == [1000.0, 3000.0]
    assert result.together_ms == 1000.0
    assert Timing(((1, 2), (3, 4)), ((1.0, 2.0), (3.0, 4.0))).together_ms is None


def test_step_cost_by_hand() -> None:
    """One linear [2, 3], V = 5, D = 2, one layer with one head of 2: countable by hand."""
    adapter, cache = 8 * (2 + 3), 2 * 2 * 4
    shapes = Shapes(weights=2 * 3, output=5 * 2, adapter=adapter, cache=2 * 2, attention=4 * 2)
    plain = step_cost(shapes, Rows(1), "fp32", cpu=True)
    assert plain == (4 * (6 + 10), 2 * (6 + 10))
    rows = Rows(experts=2, pcms=1, adapters=3, context=4)
    mpd = step_cost(shapes, rows, "fp16 (fp32 compute)", cpu=True)
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
