"""Baselines that join weights: what they compute, against PEFT's own way and by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from mpd_core.engine import Engine
from mpd_core.engine.plan import plan_request
from mpd_core.engine.reference import ReferenceDecoder
from mpd_core.errors import MPDError, RequestError
from mpd_core.evaluation.jobs import Job, jobs_of, methods_of
from mpd_core.evaluation.prompts import Prompt
from mpd_core.evaluation.runs import generate, store
from mpd_core.evaluation.store import read_rows
from mpd_core.evaluation.weight_space import WeightSpace
from mpd_core.models.linear import round_to
from mpd_core.packs import Pack
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


@pytest.mark.parametrize("method", ["ties", "dare", "arrow"])
def test_a_batch_says_what_each_reply_says_alone(pack: Pack, method: str) -> None:
    """Prompts of different lengths are padded; padding must never be read."""
    texts = ("Why?", "Explain photosynthesis to a friend, at length, and then explain it again.")
    space, jobs = WeightSpace(pack), wanted(pack, [method], texts)
    together = rows(space, jobs)
    assert len(together) == 2 * 3
    for job in jobs:
        assert rows(space, [job])[job.key] == together[job.key]
    assert len({row["text"] for row in together.values()}) > 3


def test_ties_is_what_peft_computes_without_cache_or_batch(pack: Pack) -> None:
    """The plainest way: one forward over the whole text for each token, by PEFT alone."""
    base = AutoModelForCausalLM.from_pretrained(pack.spec.base.source.folder)  # type: ignore[union-attr]
    names = ["up0", "down1"]
    model = PeftModel.from_pretrained(base, pack.folder / names[0], adapter_name=names[0])
    model.load_adapter(pack.folder / names[1], adapter_name=names[1])
    model.add_weighted_adapter(names, [1.0, 1.0], "x", combination_type="ties", density=0.5)
    model.set_adapter("x")
    space = WeightSpace(pack)
    if space._format.packed:
        round_to(model, space._format.packed)
    job = next(job for job in wanted(pack, ["ties"]) if job.code == "AB")
    ids = space._ids(job)
    for _ in range(8):
        with torch.no_grad():
            scores = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].float(), -1)
        for token in set(ids[len(space._ids(job)) :]):
            scores[token] *= GREEDY.repetition_penalty
        ids.append(int(scores.argmax()))
    reply = ids[len(space._ids(job)) :]
    assert rows(space, [job])[job.key]["text"] == space._row(job, reply)["text"]


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
    for method in ("ties", "arrow"):
        for job, row in WeightSpace(uneven).outcomes(wanted(uneven, [method])):
            if job.code == "AB":
                assert isinstance(row, dict)
                continue
            assert isinstance(row, RequestError)
            assert "give them equal rank and targets" in str(row)
            assert "\n" not in str(row)
    assert "ties" not in methods_of(uneven)
    prompted = make_pack(dimensions=2)
    assert not {"ties", "dare", "arrow"} & set(methods_of(prompted))
    with pytest.raises(RequestError, match="all of whose experts are adapters"):
        methods_of(prompted, "ties")
    with pytest.raises(RequestError, match="no space of its own"):
        methods_of(uneven, "ties@logit")


def test_rows_of_both_ways_lie_in_one_file_and_resume(pack: Pack, tmp_path: Path) -> None:
    jobs = wanted(pack, ["ties", "arrow"], ("Why?", "word " * 2000))
    with pytest.raises(MPDError, match=r"6 replies failed, first: arrow, prompt 1: .*tokens"):
        store(jobs, tmp_path, WeightSpace(pack).outcomes)
    stored = list(read_rows(tmp_path / "replies.jsonl"))
    assert {(row["method"], row["code"]) for row in stored} == {
        (method, code) for method in ("ties", "arrow") for code in ("AA", "AB", "BB")
    }
    assert "transformers" in stored[0]["precision"]
    engine = Engine.open(pack)
    generate(engine, wanted(pack, ["soup"]), tmp_path)
    engine.close()
    assert len(list(read_rows(tmp_path / "replies.jsonl"))) == 6 + 3

    def nothing_waits(jobs: list[Job]) -> object:
        assert not jobs
        return iter(())

    store(wanted(pack, ["ties", "arrow"]), tmp_path, nothing_waits)  # type: ignore[arg-type]


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
