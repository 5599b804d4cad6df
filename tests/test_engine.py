"""The engine against the reference decoder, on a tiny random LLaMA."""

from __future__ import annotations

import json
import math
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import normalizers
from transformers import AutoTokenizer

from mpd_core.analysis import trace_from_dict
from mpd_core.engine import Engine
from mpd_core.engine.build import build
from mpd_core.engine.processor import RequestProcessor
from mpd_core.engine.records import Reply
from mpd_core.engine.reference import ReferenceDecoder
from mpd_core.engine.status import held_bytes, release
from mpd_core.errors import BusyError, EngineError, RequestError
from mpd_core.models import kernels
from mpd_core.models.cache import RowCache
from mpd_core.packs import Pack, Precision, load_pack
from mpd_core.request import GenerationRequest, Message, Sampling
from mpd_core.trace import StepRecord
from tests import tiny

PROMPTS = ("Why is the sky blue?", "explain 你好 😀\nto a cat")


def ask(
    prompt: str = PROMPTS[0],
    preference: str = "AAB",
    method: str = "mpd",
    space: str = "probability",
    **sampling: float,
) -> GenerationRequest:
    settings = Sampling(**{"max_new_tokens": 12, **sampling})  # type: ignore[arg-type]
    return GenerationRequest((Message("user", prompt),), preference, method, space, settings)  # type: ignore[arg-type]


def assert_same(
    steps: tuple[StepRecord, ...], expected: tuple[StepRecord, ...], tolerance: float = 1e-4
) -> None:
    """Equal tokens and texts; log-probabilities, weights and the rest within ``tolerance``."""
    assert [s.token_id for s in steps] == [s.token_id for s in expected]
    assert [s.text for s in steps] == [s.text for s in expected]
    for step, other in zip(steps, expected, strict=True):
        assert step.weights == pytest.approx(other.weights, abs=tolerance)
        assert step.logprobs == pytest.approx(other.logprobs, abs=tolerance)
        assert step.probability == pytest.approx(other.probability, abs=tolerance)
        assert step.entropy == pytest.approx(other.entropy, abs=tolerance)
        assert step.disagreement == pytest.approx(other.disagreement, abs=tolerance)


def assert_engine_is_reference(
    pack: Pack, requests: list[GenerationRequest], precision: Precision | None = None
) -> None:
    engine = Engine.open(pack, precision=precision)
    reference = ReferenceDecoder(pack, precision=precision)
    try:
        streams = [engine.submit(request) for request in requests]  # all in one crowd
        for request, stream in zip(requests, streams, strict=True):
            assert_same(tuple(stream), tuple(reference.decode(request)))
    finally:
        engine.close()


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_engine_equals_reference(make_pack: Callable[..., Pack], dimensions: int) -> None:
    codes = ("A" * dimensions, "B" * dimensions, ("AB-BA")[:dimensions])
    requests = [
        ask(prompt, code, space=space, temperature=temperature, seed=seed, top_p=0.9)
        for prompt in PROMPTS
        for code in codes
        for space, temperature, seed in [
            ("probability", 0.0, 0),
            ("probability", 1.0, 7),
            ("logit", 0.8, 8),
        ]
    ]
    assert_engine_is_reference(make_pack(dimensions=dimensions), requests)


@pytest.mark.parametrize("backbone", ["base", "own"])
@pytest.mark.parametrize("prompt", ["own", "plain"])
@pytest.mark.parametrize("first_layer", [0, 1])
def test_trained_pack_equals_reference(
    make_pack: Callable[..., Pack],
    tmp_path: Path,
    backbone: str,
    prompt: str,
    first_layer: int,
) -> None:
    """LoRA experts of several ranks, a PCM with adapter and head, on the base or beside it.

    With adapters in the upper layer alone, the lower one is a trunk that rows share.
    """
    own = tiny.save_base(tmp_path, seed=5, hidden=32) if backbone == "own" else None
    options = {"pcm_backbone": own, "pcm_trained": True, "first_layer": first_layer}
    pack = make_pack(prompt=prompt, adapters=True, **options)
    requests = [
        ask(prompt, code, method, temperature=t, seed=3, repetition_penalty=penalty)
        for prompt in PROMPTS
        for code, method, t, penalty in [
            ("AAA", "mpd", 0.0, 1.0),
            ("B-B", "mpd", 1.0, 1.3),
            ("BAB", "uniform", 0.7, 1.0),
            ("BAB", "static:0.5,0.2,0.3", 0.7, 1.0),
            ("A-B", "static:1,0", 0.0, 1.1),
            ("BAA", "soup", 0.0, 1.0),
            ("A-B", "soup", 0.8, 1.0),
            ("ABA", "prompting", 0.0, 1.2),
            ("ABA", "vanilla", 0.9, 1.0),
            ("ABA", "expert:down2", 0.9, 1.0),
        ]
    ]
    assert_engine_is_reference(pack, requests)


@pytest.mark.parametrize(("anchor", "prior"), [(False, 0.0), (True, 0.0), (True, 0.5), (True, 1.0)])
@pytest.mark.parametrize("first_layer", [0, 1])
def test_strength_equals_reference(
    make_pack: Callable[..., Pack], anchor: bool, prior: float, first_layer: int
) -> None:
    """With the bare base and with an adapter as anchor, some or all of which is moved, too; every
    method, strengths side by side, some of which fade."""
    pack = make_pack(
        prompt="plain",
        adapters=True,
        anchor=anchor,
        prior=prior,
        pcm_trained=True,
        first_layer=first_layer,
    )
    requests = [
        replace(
            ask(PROMPTS[0], code, method, "strength", temperature=t, seed=5),
            strength=strength,
            settled=settled,
            fade=2.0,
            plausibility=plausibility,
        )
        for code, method, t, strength, settled, plausibility in [
            ("AAA", "mpd", 0.0, 2.0, 1.0, 0.0),
            ("AAB", "mpd", 0.0, 2.0, 0.3, 0.1),
            ("B-B", "mpd", 1.0, 1.4, 1.0, 0.05),
            ("BAB", "uniform", 0.7, 3.0, 0.0, 0.05),
            ("BAB", "uniform", 0.7, 0.0, 1.0, 0.0),
            ("BAB", "static:0.5,0.2,0.3", 0.0, 2.0, 0.5, 0.0),
            ("BAA", "soup", 0.0, 1.5, 1.0, 0.0),
            ("ABA", "prompting", 0.0, 1.5, 0.2, 0.0),
            ("ABA", "vanilla", 0.0, 1.5, 0.4, 0.3),
            ("ABA", "expert:down2", 0.9, 1.5, 1.0, 0.0),
        ]
    ]
    assert_engine_is_reference(pack, requests)


def test_the_prior_is_what_is_moved(make_pack: Callable[..., Pack]) -> None:
    """At B = 0 the reply is z_0's: the base's, or that of the anchor, which no expert then is."""
    packs = {
        share: make_pack(prompt="plain", adapters=True, anchor=True, prior=share)
        for share in (0.0, 1.0)
    }
    said = {}
    for share, pack in packs.items():
        still = replace(ask(PROMPTS[0], "AAA", "uniform", "strength"), strength=0.0, plausibility=0)
        said[share] = list(ReferenceDecoder(pack).decode(still))
    assert [step.token_id for step in said[0.0]] != [step.token_id for step in said[1.0]]
    for steps in said.values():
        for step in steps:
            assert math.log(step.probability) == pytest.approx(step.logprobs["plain"], abs=1e-4)
    assert "anchor" in said[0.0][0].logprobs
    assert "anchor" not in said[1.0][0].logprobs


@pytest.mark.parametrize("method", ["prompting", "vanilla"])
def test_baselines_are_the_base_as_it_is_in_any_space(
    make_pack: Callable[..., Pack], method: str
) -> None:
    """Prompting that is moved four times away from an adapter is no baseline."""
    pack = make_pack(prompt="plain", adapters=True, anchor=True, prior=1.0)
    plain, shifted = (
        list(ReferenceDecoder(pack).decode(request))
        for request in (
            ask(PROMPTS[0], "ABA", method),
            replace(ask(PROMPTS[0], "ABA", method, "strength"), strength=4.0, plausibility=0.15),
        )
    )
    assert [(s.token_id, s.probability) for s in shifted] == [
        (s.token_id, s.probability) for s in plain
    ]


def test_a_trace_in_strength_can_be_computed_again(make_pack: Callable[..., Pack]) -> None:
    """Recorded are the dials and the anchors: ratios of candidates follow from them."""
    pack = make_pack(prompt="plain", adapters=True, anchor=True)
    engine = Engine.open(pack)
    try:
        request = replace(
            ask(space="strength"), strength=1.7, settled=0.4, fade=3.0, plausibility=0.01
        )
        with engine.submit(request) as stream:
            assert len(list(stream)) == 12
        trace = stream.trace()
    finally:
        engine.close()
    dials = {"strength": 1.7, "settled": 0.4, "fade": 3.0, "plausibility": 0.01}
    assert dials.items() <= trace.settings.items()
    for step in trace.steps:
        shown = [c for c in step.top_k if c.probability > 0]
        strength = 1.7 * (0.4 + 0.6 * math.exp(-step.index / 3.0))
        scores = [_score(c.logprobs, step.weights, strength) for c in shown]
        for candidate, score in zip(shown, scores, strict=True):
            ratio = math.log(candidate.probability) - math.log(shown[0].probability)
            assert ratio == pytest.approx(score - scores[0], abs=1e-4)


def _score(logprobs: Mapping[str, float], weights: Mapping[str, float], strength: float) -> float:
    shift = sum(w * (logprobs[name] - logprobs["anchor"]) for name, w in weights.items())
    return logprobs["plain"] + strength * shift


@pytest.mark.parametrize(("prompt", "rows"), [("plain", 2), ("own", 4)])
def test_a_trunk_has_one_row_per_prompt(
    make_pack: Callable[..., Pack], prompt: str, rows: int
) -> None:
    """Experts that read the same text share a row of the lower layers; the PCM has its own."""
    pack = make_pack(prompt=prompt, adapters=True, pcm_trained=True, first_layer=1)
    parts = build(pack)
    sequence = RequestProcessor(pack, parts).sequence(ask(preference="AAA"))
    assert [len(sequence.on(lane)) for lane in parts.runner.lanes] == [rows, 4]
    assert [len(lane.cache.layers) for lane in parts.runner.lanes.values()] == [1, 1]


def test_an_option_that_there_is_not_is_refused_at_once(make_pack: Callable[..., Pack]) -> None:
    """A typo must not be the pack's own setting instead."""
    told: list[str] = []
    with pytest.raises(TypeError, match="no option 'devise'"):
        Engine.open(make_pack(), devise="cuda", progress=told.append)  # type: ignore[call-arg]
    assert told == []


def test_status_says_what_runs(make_pack: Callable[..., Pack]) -> None:
    """Kernels, layers and rows of each part, and the bytes that are held."""
    engine = Engine.open(make_pack(prompt="plain", adapters=True, pcm_trained=True, first_layer=1))
    idle = engine.status()
    with engine.submit(ask(preference="AAA", max_new_tokens=400)) as stream:
        next(iter(stream))
        busy = engine.status()
    engine.close()
    assert idle["models"]["base"]["rows"] == "0 of 256"
    assert busy["models"]["base"]["rows"] == "4 of 256"
    assert busy["models"]["trunk"]["rows"] == "2 of 256"
    assert busy["models"]["base"]["adapters"] == ["up0", "up1", "up2", "pcm"]
    assert sum(busy["models"]["base"]["products"].values()) == 5  # one layer, and the output
    assert busy["requests"] == {"running": 1, "entering": 0, "waiting": 0}
    assert busy["mib"]["base_tensors"] > 0
    json.dumps(busy)


def test_status_may_be_asked_while_the_worker_works(make_pack: Callable[..., Pack]) -> None:
    """Requests come and go, adapters are made and laid out, and nobody who asks sees that."""
    engine = Engine.open(make_pack(prompt="plain", soup="factors", adapters=True, rank=2))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)  # threads take turns in the midst of everything
    try:
        codes = ("AAA", "AAB", "BB-")
        methods = ("soup", "mpd", "vanilla")
        requests = [ask("Hi", code, m, max_new_tokens=4) for code in codes for m in methods]
        streams = [engine.submit(request) for request in requests]
        while any(engine.status()["requests"].values()):
            assert engine.status()["models"]["base"]["products"]
        for stream in streams:
            assert len(list(stream)) > 0
    finally:
        sys.setswitchinterval(interval)
        engine.close()


def test_what_changes_while_it_is_looked_at_is_counted_all_the_same() -> None:
    """As if a worker came in between: a key that adds another whenever it is named."""

    class Restless:
        def __str__(self) -> str:
            places[object()] = torch.empty(1)
            return "restless"

    places: dict[object, torch.Tensor] = {Restless(): torch.empty(3), "calm": torch.empty(2)}
    holder = RowCache(layers=0, capacity=1, length=1, budget=1)
    holder.places = places
    assert held_bytes({"lane": holder})["cache"] == 4 * (3 + 2)
    assert len(places) == 3


def test_soup_of_factors_equals_reference(make_pack: Callable[..., Pack]) -> None:
    """The published soup, (mean A)(mean B), is another model than the mean of the products."""
    requests = [ask(preference=code, method="soup") for code in ("AAA", "B-A", "BBB", "AAA")]
    factors = make_pack(adapters=True, rank=3, soup="factors")
    assert_engine_is_reference(factors, requests, "fp32")  # PEFT's mean is not rounded to fp16
    said = []
    for pack in (factors, make_pack(adapters=True, rank=3)):
        engine = Engine.open(pack)
        said.append(engine.generate(requests[0]).steps[0].logprobs["soup"])
        engine.close()
    assert said[0] != pytest.approx(said[1], abs=1e-3)


def test_trained_weights_move(make_pack: Callable[..., Pack]) -> None:
    """With a head that is not zero, weights change from token to token and with the preference."""
    engine = Engine.open(make_pack(adapters=True, pcm_trained=True))
    one, other = (engine.generate(ask(preference=code)) for code in ("AAA", "ABA"))
    engine.close()
    assert len({round(step.weights["up0"], 4) for step in one.steps}) > 3
    assert one.steps[0].weights["up0"] != pytest.approx(other.steps[0].weights["up0"], abs=1e-4)


def test_zero_head_is_uniform(tiny_engine: Engine) -> None:
    """An untrained MPD is exactly MPD (Uniform): same tokens, weights 1/n to the last bit."""
    mpd = tiny_engine.generate(ask(method="mpd", temperature=1.0, seed=4))
    uniform = tiny_engine.generate(ask(method="uniform", temperature=1.0, seed=4))
    assert not mpd.trained
    assert [s.token_id for s in mpd.steps] == [s.token_id for s in uniform.steps]
    assert all(s.weights == t.weights for s, t in zip(mpd.steps, uniform.steps, strict=True))


def test_seeds_repeat_and_differ(tiny_engine: Engine) -> None:
    def text(seed: int) -> str:
        return tiny_engine.generate(ask(temperature=1.0, seed=seed)).text

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_same_text_alone_and_in_a_crowd(tiny_engine: Engine) -> None:
    """Requests of different lengths and preferences that arrive, end and vanish midway."""
    requests = [
        ask(
            PROMPTS[i % 2] * (1 + i % 3),
            code,
            temperature=1.0,
            seed=i,
            max_new_tokens=4 + 5 * (i % 4),
        )
        for i, code in enumerate(["AAA", "B-B", "-A-", "BBB", "ABA", "AAB", "BAB", "--B"])
    ]
    alone = [tiny_engine.generate(request).steps for request in requests]
    streams = [tiny_engine.submit(request) for request in requests]
    vanishing = [tiny_engine.submit(ask(seed=90 + i, max_new_tokens=200)) for i in range(3)]
    threads = [threading.Thread(target=stream.cancel) for stream in vanishing]
    for thread in threads:
        thread.start()
    for stream, expected in zip(streams, alone, strict=True):
        assert_same(tuple(stream), expected)
    for thread, stream in zip(threads, vanishing, strict=True):
        thread.join()
        list(stream)
        assert stream.trace().finish_reason == "cancelled"


def test_cancel_keeps_what_was_said(tiny_engine: Engine) -> None:
    with tiny_engine.submit(ask(max_new_tokens=500, temperature=1.0, seed=11)) as stream:
        steps: Iterator[StepRecord] = iter(stream)
        first = next(steps)
        stream.cancel()
        rest = list(steps)
    trace = stream.trace()
    assert trace.finish_reason == "cancelled"
    assert trace.steps == (first, *rest)
    assert len(trace.steps) < 500
    assert list(stream) == []  # a second iteration ends at once


def test_trace_joins_and_round_trips(tiny_engine: Engine) -> None:
    """Texts of steps join to the reply; weights sum to 1; Eq. 1 holds on the recorded numbers."""
    for seed in range(8):
        trace = tiny_engine.generate(ask(temperature=1.5, seed=seed, max_new_tokens=60))
        assert "".join(step.text for step in trace.steps) == trace.text
        assert trace_from_dict(trace.to_dict()) == trace
        for step in trace.steps:
            assert sum(step.weights.values()) == pytest.approx(1.0, abs=1e-6)
            mixture = sum(
                w * 2.718281828459045 ** step.logprobs[e] for e, w in step.weights.items()
            )
            assert step.probability == pytest.approx(mixture, abs=1e-6)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (lambda: ask(preference="AAZ"), "no pole of dimension 'dim2'"),
        (lambda: ask(preference="AA"), "has 2 letters"),
        (lambda: ask(preference="---"), "at least one dimension"),
        (lambda: ask(method="magic"), "Unknown method 'magic'"),
        (lambda: ask(prompt="cat " * 2000), "shorten the prompt"),
        (lambda: ask(prompt="  "), "prompt is empty"),
        (lambda: ask(temperature=float("nan")), "temperature is nan"),
        (lambda: ask(temperature=-1.0), "temperature is -1"),
        (lambda: ask(top_p=0.0), "top_p is 0"),
        (lambda: ask(seed=-1), "seed is -1"),
        (lambda: ask(max_new_tokens=10**9), "max_new_tokens is 1000000000"),
    ],
)
def test_bad_requests(
    tiny_engine: Engine, request_: Callable[[], GenerationRequest], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        tiny_engine.submit(request_())


def test_a_text_of_which_the_tokenizer_keeps_nothing_is_refused(
    tmp_path: Path, tiny_base: Path
) -> None:
    """Where the template writes nothing itself, and invisible characters are normalised away."""
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    tokenizer.save_pretrained(base)
    template = "[template]\nchat = \"{{ messages[-1]['content'] }}\""
    pack = load_pack(tiny.write_pack(tmp_path, base, dimensions=1, extra=template))
    engine = Engine.open(pack, device="cpu")
    with pytest.raises(RequestError, match="To this model the prompt is empty"):
        engine.submit(ask("\u200b", "A", "vanilla"))
    engine.close()


def test_full_queue_is_busy(
    make_pack: Callable[..., Pack], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpd_core.engine.engine.MAX_WAITING", 2)
    engine = Engine.open(make_pack())
    flood = (ask(seed=seed, max_new_tokens=500, temperature=1.0) for seed in range(200))
    with pytest.raises(BusyError, match="try again"):
        deque(map(engine.submit, flood))
    engine.close()


class Panic(BaseException):
    """What a panic of a tokenizer's Rust code is in Python: no Exception."""


@pytest.mark.parametrize("kind", [RuntimeError, Panic])
def test_a_failing_request_ends_alone(
    tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    real = Reply.add

    def fragile(self: Reply, *step: Any) -> object:
        if self.sequence.request.sampling.seed == 666:
            raise kind("boom")
        return real(self, *step)

    monkeypatch.setattr(Reply, "add", fragile)
    expected = tiny_engine.generate(ask(seed=1, temperature=1.0)).steps
    good = tiny_engine.submit(ask(seed=1, temperature=1.0))
    bad = tiny_engine.submit(ask(seed=666, temperature=1.0))
    assert_same(tuple(good), expected)
    with pytest.raises(EngineError, match="boom"):
        list(bad)
    assert bad.trace().finish_reason == "error"


@pytest.mark.parametrize("kind", [RuntimeError, Panic])
def test_a_failing_forward_ends_the_batch_not_the_engine(
    tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    def fails(*_: object) -> None:
        raise kind("boom")

    with monkeypatch.context() as patch:
        patch.setattr(tiny_engine._runner, "step", fails)
        with pytest.raises(EngineError, match="boom"):
            list(tiny_engine.submit(ask()))
    assert tiny_engine.generate(ask()).finish_reason in ("stop", "length")


def test_closed_engine_says_so(make_pack: Callable[..., Pack]) -> None:
    engine = Engine.open(make_pack())
    stream = engine.submit(ask(max_new_tokens=900, temperature=1.0))
    engine.close()
    list(stream)
    assert stream.trace().finish_reason == "cancelled"
    with pytest.raises(EngineError, match="closed"):
        engine.submit(ask())


def test_an_idle_engine_gives_memory_back_and_says_the_same_again(
    make_pack: Callable[..., Pack], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpd_core.engine.engine.REST_SECONDS", 0.05)
    engine = Engine.open(make_pack())
    try:
        cache, request = engine._runner.lanes["base"].cache, ask()
        first = engine.generate(request).steps
        deadline = time.monotonic() + 60
        while cache.layers[0].keys[0].any() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not cache.layers[0].keys[0].any()
        assert engine._tables["base"].kept  # of which the same request begins with
        assert engine.generate(request).steps == first
    finally:
        engine.close()


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads Linux's page counts")
def test_what_compiling_needed_of_llvm_is_given_back_and_comes_again() -> None:
    def held() -> int:
        lines = Path("/proc/self/smaps").read_text().splitlines()
        names = [k for k, line in enumerate(lines) if line.endswith(".so") and "r-xp" in line]
        own = [k for k in names if "libllvmlite" in lines[k] or "libtorch_cpu" in lines[k]]
        rss = [next(line for line in lines[k:] if line.startswith("Rss:")) for k in own]
        return sum(int(line.split()[1]) for line in rss)

    def compiled(number: int) -> int:
        return int(kernels.compiled()(eval(f"lambda: {number}"))())

    assert compiled(3) == 3
    before = held()
    release()
    assert held() < 0.5 * before
    assert compiled(4) == 4
    assert torch.linalg.det(torch.eye(3)) == 1.0
