"""Baselines that join weights: what they compute, against PEFT's own way and by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from mpd_core.engine import Engine
from mpd_core.engine.plan import plan_request
from mpd_core.engine.reference import ReferenceDecoder
from mpd_core.errors import MPDError, RequestError
from mpd_core.evaluation import weight_space
from mpd_core.evaluation.generators import Generators, _as_expert, joined_pack
from mpd_core.evaluation.jobs import Job, jobs_of, methods_of
from mpd_core.evaluation.prompts import Prompt
from mpd_core.evaluation.record import read_rows
from mpd_core.evaluation.weight_space import WeightSpace
from mpd_core.models.linear import round_to
from mpd_core.packs import Pack
from mpd_core.prompts import PromptRenderer
from mpd_core.request import GenerationRequest, Message, Sampling

GREEDY = Sampling(max_new_tokens=8, repetition_penalty=1.2)


@pytest.fixture(scope="module")
def pack(make_pack: Callable[..., Pack]) -> Pack:
    """Adapters of one rank on the upper layer only, and a trained PCM."""
    return make_pack(dimensions=2, adapters=True, rank=3, first_layer=1, pcm_trained=True)


def wanted(pack: Pack, methods: list[str], texts: tuple[str, ...] = ("Why?",)) -> list[Job]:
    prompts = [Prompt(str(number), text) for number, text in enumerate(texts)]
    return jobs_of(pack, prompts, methods, ["AA", "AB", "BB"], GREEDY)


def rows(space: WeightSpace, jobs: list[Job]) -> dict[str, dict[str, object]]:
    found = {job.key: row for job, row in space.outcomes(jobs)}
    assert not [row for row in found.values() if isinstance(row, MPDError)]
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("together", [2, 32])
def test_a_batch_says_what_each_reply_says_alone(
    pack: Pack, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of different lengths are padded, and replies leave the batch at different times:
    padding and neighbours must never be read."""
    monkeypatch.setattr(weight_space, "TOGETHER", together)
    texts = (
        "Why?",
        "Explain photosynthesis to a friend, at length, and then explain it again.",
        "No",
    )
    space, jobs = WeightSpace(pack), wanted(pack, ["arrow"], texts)
    lengths = itertools.cycle((8, 3, 5, 1))
    jobs = [of_length(job, next(lengths)) for job in jobs]
    found = rows(space, jobs)
    assert len(found) == 3 * 3
    assert len({row["tokens"] for row in found.values()}) > 2
    for job in jobs:
        assert rows(space, [job])[job.key] == found[job.key]
    assert len({row["text"] for row in found.values()}) > 4


def of_length(job: Job, tokens: int) -> Job:
    sampling = replace(GREEDY, max_new_tokens=tokens)
    return replace(job, request=replace(job.request, sampling=sampling))


@pytest.mark.parametrize(("method", "kind"), [("ties", "ties"), ("dare", "dare_linear")])
def test_the_engine_serves_the_adapter_that_peft_merges(
    pack: Pack, method: str, kind: str, tmp_path: Path
) -> None:
    """Its distributions, against one forward over the whole text a token by PEFT alone."""
    base = AutoModelForCausalLM.from_pretrained(pack.spec.base.source.folder)  # type: ignore[union-attr]
    names = ["up0", "down1"]
    model = PeftModel.from_pretrained(base, pack.folder / names[0], adapter_name=names[0])
    model.load_adapter(pack.folder / names[1], adapter_name=names[1])
    weights = [1.0, 1.0] if method == "ties" else [0.5, 0.5]
    torch.manual_seed(0)
    model.add_weighted_adapter(names, weights, "x", combination_type=kind, density=0.5)
    model.set_adapter("x")
    space = WeightSpace(pack)
    if space._format.packed:
        round_to(model, space._format.packed)
    job = next(job for job in wanted(pack, [method]) if job.code == "AB")
    folder = space.save(method, pack.space.parse("AB").poles, tmp_path)
    engine = Engine.open(joined_pack(pack, {(method, "AB"): folder}))
    trace = engine.generate(_as_expert(job))
    engine.close()
    tokenizer = AutoTokenizer.from_pretrained(pack.spec.base.source.folder)  # type: ignore[union-attr]
    prompts = PromptRenderer(tokenizer, pack.spec.template)
    instructions = [pole.instruction for pole in pack.space.parse("AB").poles]
    ids = prompts.render(job.request.messages, instructions)
    assert trace.prompt_tokens == len(ids)
    for step in trace.steps:
        with torch.no_grad():
            scores = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].float(), -1)
        (said,) = step.logprobs.values()
        assert said == pytest.approx(float(scores[step.token_id]), abs=2e-3)
        ids.append(step.token_id)
    generators = Generators(pack, lambda _: None)
    generators.run([job], tmp_path)
    (row,) = read_rows(tmp_path / "replies.jsonl")
    assert (row["text"], row["method"], row["code"]) == (trace.text, method, "AB")
    generators.close()


def test_arrow_with_one_expert_is_that_expert(pack: Pack) -> None:
    """All weight goes to it, at every layer and token: the engine's adapter, with instructions."""
    space = WeightSpace(pack)
    poles = (pack.space.poles[0],)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        plain = space._base(ids).logits.clone()
        with space.merged("arrow", poles) as model:
            routed = model(ids).logits.clone()
        with space.merged("ties", poles) as model:
            model.set_adapter(poles[0].name)
            alone = model(ids).logits.clone()
        after = space._base(ids).logits
    assert torch.allclose(routed, alone, atol=1e-4)
    assert not torch.allclose(routed, plain, atol=1e-2)
    assert torch.equal(after, plain)  # whatever was put on the base is off again


def test_what_dare_drops_is_the_same_every_time(pack: Pack) -> None:
    space, ids = WeightSpace(pack), torch.tensor([[5, 6, 7, 8]])
    found = []
    for _ in range(2):
        before = torch.get_rng_state()
        with torch.inference_mode(), space.merged("dare", pack.space.poles[:2]) as model:
            found.append(model(ids).logits.clone())
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*found)


def test_experts_that_cannot_be_joined_are_refused_in_one_sentence(
    make_pack: Callable[..., Pack],
) -> None:
    """Ranks differ in two of three preferences: those are refused, and the third is served."""
    uneven = make_pack(dimensions=2, adapters=True)
    generators = Generators(uneven, lambda _: None)
    for method, way in (("ties", generators._by_joined), ("arrow", WeightSpace(uneven).outcomes)):
        found = list(way(wanted(uneven, [method])))
        assert len(found) == 3
        for job, row in found:
            if job.code == "AB":
                assert isinstance(row, dict)
                continue
            assert isinstance(row, RequestError)
            assert "give them equal rank and targets" in str(row)
            assert "\n" not in str(row)
    generators.close()
    assert "ties" not in methods_of(uneven)
    prompted = make_pack(dimensions=2)
    assert not {"ties", "dare", "arrow"} & set(methods_of(prompted))
    with pytest.raises(RequestError, match="all of whose experts are adapters"):
        methods_of(prompted, "ties")
    with pytest.raises(RequestError, match="no space of its own"):
        methods_of(uneven, "ties@logit")


def test_rows_of_all_ways_lie_in_one_file_and_resume(pack: Pack, tmp_path: Path) -> None:
    """The engine, the engine with joined experts, and PEFT's model; one is asked at a time."""
    generators, methods = Generators(pack, lambda _: None), ["soup", "ties", "arrow"]
    with pytest.raises(MPDError, match=r"3 replies failed, first: arrow, prompt 1: .*tokens"):
        generators.run(wanted(pack, ["arrow"], ("Why?", "word " * 2000)), tmp_path)
    generators.run(wanted(pack, methods), tmp_path)
    stored = list(read_rows(tmp_path / "replies.jsonl"))
    assert [(row["method"], row["code"]) for row in stored] == [
        (method, code) for method in ("arrow", "soup", "ties") for code in ("AA", "AB", "BB")
    ]
    by = {method: {r["precision"] for r in stored if r["method"] == method} for method in methods}
    assert "transformers" in by["arrow"].pop()
    assert by["ties"] == by["soup"]
    assert len({row["text"] for row in stored}) > 5
    before = (tmp_path / "replies.jsonl").read_bytes()
    generators.close()
    generators.run(wanted(pack, methods), tmp_path)
    assert generators._engine is None  # nothing had to be loaded
    assert (tmp_path / "replies.jsonl").read_bytes() == before


def test_top_1_listens_to_the_expert_with_the_largest_weight(pack: Pack) -> None:
    """At each token the reply is that expert's own choice, and the weights are MPD's, sharpened."""
    assert {"top-1", "mpd@logit", "ties", "arrow"} <= set(methods_of(pack))
    engine, reference = Engine.open(pack), ReferenceDecoder(pack)
    request = GenerationRequest((Message("user", "Why?"),), "AB", "top-1", sampling=GREEDY)
    trace = engine.generate(request)
    engine.close()
    expected = list(reference.decode(request))
    assert [s.token_id for s in trace.steps] == [s.token_id for s in expected]
    for step in trace.steps:
        assert sorted(step.weights.values()) == [0.0, 1.0]
        top = max(step.weights, key=lambda name: step.weights[name])
        assert step.probability == pytest.approx(2.718281828 ** step.logprobs[top], rel=1e-4)


def test_an_untrained_pcm_has_no_first_expert(make_pack: Callable[..., Pack]) -> None:
    untrained = make_pack(dimensions=2)
    assert "top-1" not in methods_of(untrained)
    with pytest.raises(RequestError, match="Unknown method 'top-1'"):
        plan_request(untrained, untrained.space.parse("AA"), "top-1")
