"""Credit for single tokens: gradients against autograd, by enumeration, and by a planted reward."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from mpd_core.engine import Engine
from mpd_core.errors import PackError
from mpd_core.method.token_credit import (
    centred,
    later_scores,
    leave_one_out,
    slope,
    token_credit_loss,
)
from mpd_core.packs import load_pack
from mpd_core.request import Sampling
from mpd_core.training import rollouts
from mpd_core.training import teacher_forcing as reading
from mpd_core.training.adapters.experts import expert_folder
from mpd_core.training.context import TrainingContext
from mpd_core.training.export import check_experts, trained_pack
from mpd_core.training.pcm import loop as pcm
from mpd_core.training.pcm.batches import Batch, Merging
from mpd_core.training.pcm.policy import likely_log_probs, reply_log_probs
from mpd_core.training.pcm.token_scores import pole_shifts
from mpd_core.training.rollouts import Rollout
from mpd_core.training.scoring.reward_function import ScoredReply
from mpd_core.training.trunk import Layout
from tests.test_pcm_training import Planted
from tests.training_fixtures import history, training

OPPOSITE = {"up0": "down0", "down0": "up0", "up1": "down1", "down1": "up1"}


def recorded(space: Any, tokens: int, vocabulary: int, experts: int) -> Batch:
    """One reply of random experts, with the whole of a small vocabulary recorded."""
    anchors = 2 if space == "strength" else 0
    said = torch.randn(1, tokens, vocabulary, anchors + experts).log_softmax(dim=2)
    nothing = torch.zeros(1, 1, dtype=torch.long)
    return Batch(
        ids=nothing,
        layout=Layout(nothing, nothing),
        at=nothing,
        mask=torch.ones(1, tokens, dtype=torch.bool),
        log_probs=said[:, :, 0],
        others=said[:, :, 1:],
        poles=torch.arange(experts)[None],
        merging=Merging(space, 2.5, 0.4, 3.0, 0.0),
    )


def expected_gradient(batch: Batch, alpha: Tensor, temperature: float) -> Tensor:
    """d ln pi(y_t) / d s_i, s the scores before the softmax: with g_i = d ln pi / d alpha_i it is
    alpha_i (g_i - sum_j alpha_j g_j); in the space of probabilities rho_i - alpha_i."""
    experts = alpha.shape[-1]
    every = torch.cat([batch.log_probs[:, :, None], batch.others], dim=2)[..., -experts:]
    pi = likely_log_probs(batch, alpha, temperature).exp()[..., None]
    if batch.merging.space == "probability":
        merged = (alpha[:, :, None] * every.exp()).sum(dim=-1, keepdim=True)
        moves = every.exp() / merged
    else:
        place = torch.arange(every.shape[1])
        strong = 2.5 * (0.4 + 0.6 * torch.exp(-place / 3.0))
        moves = every * (strong if batch.merging.space == "strength" else strong**0)[:, None, None]
    g = (moves[:, :, 0] - (pi * moves).sum(dim=2)) / temperature
    return alpha * (g - (alpha * g).sum(dim=-1, keepdim=True))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("space", ["probability", "logit", "strength"])
def test_what_a_token_says_of_the_weights_is_autograd_s(space: str, temperature: float) -> None:
    """From recorded probabilities alone; rho_i - alpha_i where they are merged as such."""
    torch.manual_seed(1)
    batch = recorded(space, tokens=4, vocabulary=7, experts=3)
    scores = torch.randn(1, 4, 3, requires_grad=True)
    said = reply_log_probs(batch, scores.softmax(dim=-1), temperature)
    (gradient,) = torch.autograd.grad(said.sum(), scores)
    alpha = scores.detach().softmax(dim=-1)
    torch.testing.assert_close(gradient, expected_gradient(batch, alpha, temperature))
    if space == "probability" and temperature == 1.0:
        share = alpha * batch.log_probs.exp()
        rho = share / share.sum(dim=-1, keepdim=True)
        torch.testing.assert_close(gradient, rho - alpha)


@pytest.mark.parametrize("others", [True, False])
def test_credit_of_tokens_adds_up_to_the_gradient_of_the_reward(others: bool) -> None:
    """All nine replies of two tokens of three, any rewards and any token scores: weighed by their
    probability, the losses' gradient at pi_old is -2 eta times that of the expected reward."""
    torch.manual_seed(2)
    eta = 1.7
    free = torch.randn(4, 3, requires_grad=True, dtype=torch.float64)  # first token, then by it
    reward, earned = torch.randn(3, 3).double(), torch.randn(4, 3).double()
    log_probs = free.log_softmax(dim=-1)
    total, wanted = torch.zeros(()).double(), torch.zeros(()).double()
    for first, second in itertools.product(range(3), range(3)):
        rows, tokens = [0, 1 + first], [first, second]
        likely = [[t, *(v for v in range(3) if v != t)][: 3 if others else 1] for t in tokens]
        said = torch.stack([log_probs[r, some] for r, some in zip(rows, likely, strict=True)])
        q = torch.stack([earned[r, some] for r, some in zip(rows, likely, strict=True)])
        probability = (log_probs[0, first] + log_probs[1 + first, second]).exp()
        rest = reward[first, second] - q[:, 0].sum()
        loss = token_credit_loss(
            said[None],
            old_log_probs=said.detach()[None],
            scores=centred(q, said.detach())[None],
            later=(later_scores(q[:, 0], 1.0) + rest)[None],
            mask=torch.ones(1, 2, dtype=torch.bool),
            eta=eta,
        )
        total = total + probability.detach() * 2 * loss
        wanted = wanted + probability * reward[first, second]
    (found,) = torch.autograd.grad(total, free, retain_graph=True)
    (exact,) = torch.autograd.grad(wanted, free)
    torch.testing.assert_close(found, -2 * eta * exact)


def test_credit_by_hand() -> None:
    """0.5 of the next token's score and 0.25 of the one after it; a reply of 3 among 1 and 2; and
    a slope of 2 within groups, whatever lies between them."""
    assert later_scores(torch.tensor([9.0, 2.0, 4.0]), 0.5).tolist() == [2.0, 2.0, 0.0]
    assert leave_one_out(torch.tensor([[3.0, 1.0, 2.0]])).tolist() == [[1.5, -1.5, 0.0]]
    scores = torch.tensor([[0.0, 1.0], [5.0, 7.0]])
    assert slope(scores, torch.tensor([[9.0, 11.0], [0.0, 4.0]])) == pytest.approx(2.0)
    assert slope(scores, torch.tensor([[0.0, -2.0], [3.0, 1.0]])) == 0.0


def test_loss_by_hand() -> None:
    """A lone token: (eta l - a - F)^2 = (2 * 0.5 - 0.25 - 1)^2; padding does not count."""
    loss = token_credit_loss(
        torch.tensor([[[-1.0], [5.0]]]),
        old_log_probs=torch.tensor([[[-1.5], [0.0]]]),
        scores=torch.tensor([[[0.25], [3.0]]]),
        later=torch.tensor([[1.0, 7.0]]),
        mask=torch.tensor([[True, False]]),
        eta=2.0,
    )
    assert loss.item() == pytest.approx(0.0625)


def sampled(setup: TrainingContext, temperature: float) -> list[Rollout]:
    engine = Engine.open(trained_pack(setup), precision="fp32")
    try:
        asks = rollouts.every(["Hi", "Why is it so?"], ["AA", "BA"], 1, 0)
        return rollouts.run(engine, asks, Sampling(5, temperature=temperature))
    finally:
        engine.close()


def test_shifts_are_those_between_the_poles_as_peft_reads_them(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the sampled token and of every other one that was recorded, by its id."""
    monkeypatch.setattr(reading, "fastest_precision", lambda: "fp32")
    setup = training(tmp_path, tiny_base, decode='space = "strength"')
    replies = sampled(setup, 0.5)
    found = pole_shifts(setup, replies)
    exact = []
    for reply in replies:
        ids = [[t, *some] for t, some in zip(reply.tokens, reply.other_ids, strict=True)]
        assert all(len(set(row)) == len(row) > 2 for row in ids)
        both = []
        for pole in setup.pack.space.parse(reply.preference).poles:
            mine, theirs = (
                said_by(setup, tiny_base, name, reply) for name in (pole.name, OPPOSITE[pole.name])
            )
            both.append(mine - theirs)
        exact.append([torch.stack([b[t, row] for b in both], -1) for t, row in enumerate(ids)])
    for code in ("AA", "BA"):
        rows = [k for k, reply in enumerate(replies) if reply.preference == code]
        mean = torch.stack([step[0] for k in rows for step in exact[k]]).mean(dim=0)
        for k in rows:
            for t, step in enumerate(exact[k]):
                own = found[k][t, : len(step)]
                torch.testing.assert_close(own, step - mean, atol=2e-3, rtol=1e-3)
                assert not found[k][t, len(step) :].any()


def said_by(setup: TrainingContext, base: Path, name: str, reply: Rollout) -> Tensor:
    """ln p of the whole vocabulary before each token, [T, V]."""
    pole = next(pole for pole in setup.pack.space.poles if pole.name == name)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(model, expert_folder(setup, pole)).eval()
    prompt = setup.renderer.render(setup.messages(reply.prompt))
    with torch.no_grad():
        logits = adapted(torch.tensor([[*prompt, *reply.tokens]])).logits[0]
    said: Tensor = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return said


class PlantedShifts:
    """Rewards a reply for what its tokens say for the first pole rather than its opposite."""

    def __init__(self, setup: TrainingContext) -> None:
        self._setup = setup

    def prepare(self, engine: Engine, prompts: Sequence[str], codes: Sequence[str]) -> None:
        """Nothing is needed."""

    def score(self, replies: Sequence[Rollout]) -> list[ScoredReply]:
        shifts = pole_shifts(self._setup, replies)
        scored = []
        for reply, shift in zip(replies, shifts, strict=True):
            first, second = self._setup.pack.space.parse(reply.preference).poles
            score = 0.1 * float(shift[:, 0, 0].sum())
            raw = {first.name: score, second.name: 12.0}  # which cannot be had any better
            bt = {name: float(torch.tensor(value).sigmoid()) for name, value in raw.items()}
            scored.append(ScoredReply(reply, raw, bt))
        return scored


@pytest.mark.parametrize("space", ["probability", "strength"])
def test_weights_go_to_whose_tokens_earn_the_reward(
    tiny_base: Path, tmp_path: Path, space: str
) -> None:
    """Token scores explain this reward, so that weights follow it without the rest."""
    settings = {"algorithm": "token_credit", "iterations": 2, "temperature": 0.9}
    change = {
        "head_lr = 5e-2": "head_lr = 1e-2",
        "[pcm.rebel]": "[pcm.token_credit]\neta = 1.0\ndiscount = 0.0\nrest = 0.0\n[pcm.rebel]",
    }
    setup = training(tmp_path, tiny_base, decode=f'space = "{space}"', change=change, **settings)
    pcm.train_pcm(setup, resume=False, reward=PlantedShifts(setup))
    folder = pcm.pcm_folder(setup)
    rows = history(folder)
    assert rows[0]["explained"] > 0.6  # the slope is half as steep for two poles
    assert rows[0]["loss"] < rows[0]["loss_before"]
    second = rollouts.load(folder / "rollouts" / "001.jsonl")
    first_weight = torch.tensor([row[0] for reply in second for row in reply.weights])
    assert first_weight.mean() > 0.55


def test_the_rest_of_a_reward_teaches_too(tiny_base: Path, tmp_path: Path) -> None:
    """A reward of which token scores explain next to nothing, at the temperature of the pack."""
    settings = {"algorithm": "token_credit", "iterations": 5, "passes": 4, "temperature": 0.5}
    change = {
        "head_lr = 5e-2": "head_lr = 2e-2",
        "[pcm.rebel]": "[pcm.token_credit]\ndiscount = 1.0\n[pcm.rebel]",
    }
    setup = training(tmp_path, tiny_base, change=change, **settings)
    pcm.train_pcm(setup, resume=False, reward=Planted())
    rows = history(pcm.pcm_folder(setup))
    assert max(row["explained"] for row in rows) < 0.3
    assert not any(row["undone"] for row in rows)
    assert fmean(row["reward"] for row in rows[-2:]) > rows[0]["reward"] + 0.05


def test_experts_behind_another_prompt_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    """They would be read behind a prompt that they never see."""
    check_experts(training(tmp_path, tiny_base, algorithm="token_credit"))
    file = tmp_path / "pack.toml"
    text = file.read_text().replace('prompt = "plain"', 'prompt = "own"')
    file.write_text(text, encoding="utf-8")
    with pytest.raises(PackError, match=r"pack.toml: experts.prompt is not 'plain'"):
        check_experts(TrainingContext.open(load_pack(tmp_path), tmp_path / "out"))
