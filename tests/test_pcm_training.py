"""PCM training: losses by hand, updates from recorded probabilities, and a planted reward."""

from __future__ import annotations

import itertools
import math
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from mpd_core.engine import Engine
from mpd_core.errors import PackError
from mpd_core.method.merging import merge_probabilities, tempered_log_probs
from mpd_core.method.ppo import advantages, ppo_loss, ppo_policy_loss
from mpd_core.method.rebel import rebel_loss
from mpd_core.method.reward import aggregate, bradley_terry
from mpd_core.request import Sampling
from mpd_core.training import checkpoint, rollouts
from mpd_core.training import teacher_forcing as reading
from mpd_core.training.adapters.experts import expert_folder
from mpd_core.training.context import TrainingContext
from mpd_core.training.export import trained_pack
from mpd_core.training.pcm import loop as pcm
from mpd_core.training.pcm import supervised_gate as gating
from mpd_core.training.pcm.answers import WRITTEN, written
from mpd_core.training.pcm.batches import Collator
from mpd_core.training.pcm.policy import Policy
from mpd_core.training.pcm.supervised_gate import fit_gate_to_answers, fit_mean_weights, smoothed
from mpd_core.training.pcm.updates import best_of_each
from mpd_core.training.recipe import load_recipe
from mpd_core.training.results import ADAPTER, HEAD
from mpd_core.training.rollouts import Rollout, RolloutRequest
from mpd_core.training.scoring.reward_function import ScoredReply
from mpd_core.training.trunk import Trunk
from tests import tiny
from tests.training_fixtures import history, training, write_training_pack

POLES = {"A": "up", "B": "down"}


class Planted:
    """Rewards a reply for tokens that its first expert finds likelier than its second."""

    def prepare(self, engine: Engine, prompts: Sequence[str], codes: Sequence[str]) -> None:
        """Nothing is needed."""

    def score(self, replies: Sequence[Rollout]) -> list[ScoredReply]:
        return [
            ScoredReply(reply, dict.fromkeys(names, score), dict.fromkeys(names, score))
            for reply in replies
            for score in [fmean(float(row[-2] > row[-1]) for row in reply.log_probs)]
            for first, second in [reply.preference]
            for names in [(POLES[first] + "0", POLES[second] + "1")]
        ]


def test_bradley_terry() -> None:
    value = bradley_terry(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.0]))
    assert value.tolist() == pytest.approx([1 / (1 + math.exp(-2)), 0.5])


def test_aggregates_by_hand() -> None:
    """Of 0.9, 0.9 and 0.1 the geometric mean is 0.433; the soft minimum lies near the least."""
    rewards = torch.tensor([[0.9, 0.9, 0.1], [0.6, 0.6, 0.6]])
    assert aggregate(rewards, "mean").tolist() == pytest.approx([1.9 / 3, 0.6])
    assert aggregate(rewards, "geometric").tolist() == pytest.approx([0.081 ** (1 / 3), 0.6])
    soft = -math.log((2 * math.exp(-7.2) + math.exp(-0.8)) / 3) / 8
    assert aggregate(rewards, "soft_min").tolist() == pytest.approx([soft, 0.6], abs=1e-6)


def test_tempered_log_probs() -> None:
    """Over a whole vocabulary it is the tempered softmax; without others, temperature is 1."""
    log_probs = torch.tensor([0.5, 0.3, 0.2]).log()
    powers = log_probs.exp().square()
    found = tempered_log_probs(log_probs, 0.5).exp().tolist()
    assert found == pytest.approx((powers / powers.sum()).tolist())
    assert tempered_log_probs(log_probs[:1], 1.0) == log_probs[0]


def plain_rebel(log_ratios: Tensor, rewards: Tensor, eta: float) -> Tensor:
    """The formula, pair by pair."""
    losses = [
        (eta * (row[i] - row[j]) - (r[i] - r[j])) ** 2
        for row, r in zip(log_ratios, rewards, strict=True)
        for i, j in itertools.combinations(range(len(row)), 2)
    ]
    return torch.stack(losses).mean()


def test_rebel_is_the_mean_over_pairs_and_so_is_its_gradient() -> None:
    torch.manual_seed(0)
    ratios, rewards = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5)
    ours, plain = rebel_loss(ratios, rewards, 0.7), plain_rebel(ratios, rewards, 0.7)
    assert ours.item() == pytest.approx(plain.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(ours, ratios)
    (expected,) = torch.autograd.grad(plain, ratios)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)


def test_rebel_by_hand() -> None:
    """eta 0.5, log-ratios 1 and -1, rewards 0.8 and 0.2: (0.5 * 2 - 0.6)^2."""
    loss = rebel_loss(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.8, 0.2]]), 0.5)
    assert loss.item() == pytest.approx(0.16)


def test_advantages_by_hand() -> None:
    """Two tokens, then padding: delta_2 = 1 - 0.5, delta_1 = 0.5 - 0.2, lambda 0.5."""
    mask = torch.tensor([[True, True, False]])
    found = advantages(
        torch.tensor([[0.0, 1.0, 9.0]]), torch.tensor([[0.2, 0.5, 9.0]]), mask, 1.0, 0.5
    )
    assert found.tolist()[0] == pytest.approx([0.3 + 0.5 * 0.5, 0.5, 0.0])


def test_ppo_clips_by_hand() -> None:
    """Ratios 2 and 0.5 under advantages 1 and -1: clipped to 1.2, and to 0.8 from below."""
    loss = ppo_policy_loss(
        torch.tensor([[2.0, 0.5]]).log(), torch.tensor([[1.0, -1.0]]), torch.ones(1, 2) > 0, 0.2
    )
    assert loss.item() == pytest.approx((-1.2 + 0.8) / 2)


@pytest.mark.parametrize(
    ("algorithm", "temperature"),
    [
        ("rebel", 1.0),
        ("rebel", 0.5),
        ("ppo", 1.0),
        ("ppo", 0.5),
        ("best_of", 1.0),
        ("best_of", 0.5),
        ("token_credit", 1.0),
    ],
)
def test_a_planted_reward_rises(
    tiny_base: Path, tmp_path: Path, algorithm: str, temperature: float
) -> None:
    """From exactly uniform; the weights end where the reward is."""
    settings = {"algorithm": algorithm, "iterations": 5, "passes": 4, "temperature": temperature}
    setup = training(tmp_path, tiny_base, **settings)
    said: list[str] = []
    pcm.train_pcm(setup, resume=False, tell=said.append, reward=Planted())
    rows = history(pcm.pcm_folder(setup))
    assert len(said) == len(rows) == 5
    assert rows[0]["entropy_before"] == pytest.approx(1.0)
    first, last = rows[0]["reward"], fmean(row["reward"] for row in rows[-2:])
    assert last > first + 0.05


def test_best_of_takes_the_best_reply_of_each_group() -> None:
    """And nothing where all are alike; whatever the others are, they do not count."""
    row = ((-1.0, -1.0),)
    replies = [Rollout("Hi", "AA", "mpd", str(k), False, (1,), row, row, (0.0,)) for k in range(6)]
    some, rewards = best_of_each(replies, torch.tensor([0.1, 0.4, 0.5, 0.5, 0.9, -1.0]), 2)
    assert [reply.text for reply in some] == ["1", "4"]
    assert rewards.tolist() == pytest.approx([0.4, 0.9])
    every, _ = best_of_each(replies, torch.ones(6), 2)
    assert len(every) == 3


@pytest.mark.parametrize("algorithm", ["rebel", "best_of", "token_credit"])
def test_a_single_reply_has_nothing_to_be_compared_with(
    tiny_base: Path, tmp_path: Path, algorithm: str
) -> None:
    options = {"algorithm": algorithm, "change": {"samples = 4": "samples = 1"}}
    pack = write_training_pack(tmp_path, tiny_base, adapters=True, **options)  # type: ignore[arg-type]
    with pytest.raises(PackError, match=r"train.toml: pcm: .*rollouts.samples to at least 2"):
        load_recipe(pack)


def test_ppo_in_one_step_by_hand() -> None:
    """One token, nothing moved yet: reward 1 less 0.1 times ln 2 for leaving the reference; the
    whitened advantage of a lone token is 0, so what is left is the critic's half square."""
    one = torch.zeros(1, 1)
    loss = ppo_loss(
        one,
        one,
        old_log_probs=one,
        old_values=one,
        reference_log_probs=one - math.log(2),
        rewards=torch.ones(1),
        mask=torch.ones(1, 1, dtype=torch.bool),
        clip=0.2,
        value_weight=0.5,
        gamma=1.0,
        lam=0.95,
        kl=0.1,
    )
    assert loss.item() == pytest.approx(0.5 * 0.5 * (1 - 0.1 * math.log(2)) ** 2)


def first_tokens(reply: Rollout, count: int) -> Rollout:
    """A reply cut short, so that replies differ in length."""
    parts = ("tokens", "log_probs", "weights", "disagreement")
    return replace(reply, **{name: getattr(reply, name)[:count] for name in parts})


def test_an_update_sees_what_the_engine_said(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded probabilities with the policy's weights are the full recomputation; so are replies
    packed behind one prompt what each is by itself. In fp32, so that nothing hides in rounding."""
    monkeypatch.setattr(Trunk, "kept_as", torch.float32)
    setup = training(tmp_path, tiny_base)
    policy, collate = Policy(setup), Collator(setup)
    torch.manual_seed(0)
    for parameter in checkpoint.trained(policy).values():
        parameter.copy_(torch.randn_like(parameter).mul(0.15).half())  # as it will be saved
    policy.mixed_precision = False
    policy.save(tmp_path / "pcm")
    pack = trained_pack(setup, tmp_path / "pcm")
    engine = Engine.open(pack, precision="fp32")
    asks = rollouts.every(["Hi", "Why is it so?"], ["AA", "AB"], 3, 0)
    said = rollouts.run(engine, asks, Sampling(9, temperature=1.0))
    engine.close()
    replies = [first_tokens(reply, 9 - 2 * (k % 3)) for k, reply in enumerate(said)]
    with torch.no_grad():
        log_probs, weights, _ = policy.log_probs(collate(replies))
        assert len(collate(replies).ids) == 4
        alone = [policy.log_probs(collate([reply])) for reply in replies]
    assert torch.tensor([w for r in replies for w in r.weights]).std(dim=0).min() > 0.01
    for row, reply in enumerate(replies):
        length = len(reply.tokens)
        torch.testing.assert_close(
            weights[row, :length], torch.tensor(reply.weights), atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(log_probs[row, :length], alone[row][0][0], atol=1e-5, rtol=1e-4)
        recorded = torch.tensor(reply.log_probs)[..., None]
        full = merge_probabilities(recorded, torch.tensor(reply.weights))[..., 0]
        torch.testing.assert_close(log_probs[row, :length], full, atol=1e-5, rtol=1e-4)


def test_an_update_in_strength_sees_what_the_engine_said(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a floor that leaves few tokens, all of which are recorded, its normaliser is exact."""
    monkeypatch.setattr(Trunk, "kept_as", torch.float32)
    decode = 'space = "strength"\nstrength = 1.8\nsettled = 0.3\nfade = 2.0\nplausibility = 0.1'
    decode += "\ntop_k_recorded = 50"
    setup = training(tmp_path, tiny_base, decode=decode)
    policy = Policy(setup)
    torch.manual_seed(0)
    for parameter in checkpoint.trained(policy).values():
        parameter.copy_(torch.randn_like(parameter).mul(0.15).half())
    policy.mixed_precision = False
    policy.save(tmp_path / "pcm")
    engine = Engine.open(trained_pack(setup, tmp_path / "pcm"), precision="fp32")
    asks = [RolloutRequest("Why is it so?", code, seed=3) for code in ("AA", "BA")]
    sampling = Sampling(9, temperature=1.0)
    traces = []
    for ask in asks:
        own = asdict(replace(sampling, seed=ask.seed))
        with engine.submit(engine.pack.request(ask.prompt, ask.preference, **own)) as stream:
            list(stream)
        traces.append(stream.trace())
    engine.close()
    replies = [rollouts._reply(ask, trace) for ask, trace in zip(asks, traces, strict=True)]
    with torch.no_grad():
        log_probs, _, _ = policy.log_probs(Collator(setup)(replies))
    for row, trace in enumerate(traces):
        said = torch.tensor([step.probability for step in trace.steps])
        assert len({round(float(p), 3) for p in said}) > 1
        torch.testing.assert_close(log_probs[row].exp(), said, atol=1e-3, rtol=1e-3)


class CutOff(Planted):
    """Like a kill: nothing comes after the judging of some iteration."""

    def __init__(self, iterations: int) -> None:
        self._left = iterations

    def score(self, replies: Sequence[Rollout]) -> list[ScoredReply]:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return super().score(replies)


@pytest.mark.parametrize(
    ("algorithm", "answers", "done", "space"),
    [
        ("rebel", False, 1, "probability"),
        ("ppo", False, 1, "probability"),
        ("rebel", True, 0, "probability"),
        ("rebel", True, 1, "strength"),
        ("ppo", False, 1, "logit"),
        ("best_of", False, 1, "strength"),
        ("token_credit", False, 1, "strength"),
    ],
)
def test_a_resumed_training_is_the_unbroken_one(
    tiny_base: Path, tmp_path: Path, algorithm: str, answers: bool, done: int, space: str
) -> None:
    """Cut off after some iterations, when the next one's replies were sampled."""
    settings = {"algorithm": algorithm, "iterations": 2}
    settings |= {"answers": answers, "decode": f'space = "{space}"'}
    pack = write_training_pack(tmp_path, tiny_base, adapters=True, **settings)  # type: ignore[arg-type]
    whole, cut = (TrainingContext.open(pack, tmp_path / name) for name in ("whole", "cut"))
    pcm.train_pcm(whole, resume=False, reward=Planted())
    with pytest.raises(KeyboardInterrupt):
        pcm.train_pcm(cut, resume=False, reward=CutOff(done))
    pcm.train_pcm(cut, resume=True, reward=Planted())
    expected, found = (load_file(pcm.pcm_folder(setup) / pcm.STATE) for setup in (whole, cut))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():  # recorded numbers may differ in their last digits
        torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=1e-3, msg=name)
    rows = [history(pcm.pcm_folder(setup)) for setup in (whole, cut)]
    assert [row["reward"] for row in rows[0]] == pytest.approx([row["reward"] for row in rows[1]])


def test_a_state_of_other_experts_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    setup = training(tmp_path, tiny_base, iterations=1)
    pcm.train_pcm(setup, resume=False, reward=Planted())
    expert = setup.out / "experts" / "up0" / "adapter"
    shutil.copytree(setup.pack.path(setup.pack.spec.experts.adapters["up1"].folder), expert)
    with pytest.raises(PackError, match=r"other experts.*without --resume"):
        pcm.train_pcm(setup, resume=True, reward=Planted())


def test_a_state_of_other_rewards_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    """Also where only the head was fitted anew."""
    setup = training(tmp_path, tiny_base, iterations=1)
    pcm.train_pcm(setup, resume=False, reward=Planted())
    folder = setup.out / "rewards" / ADAPTER
    folder.mkdir(parents=True)
    tiny.save_head(folder / HEAD, hidden=64, poles=4)
    with pytest.raises(PackError, match=r"other rewards.*without --resume"):
        pcm.train_pcm(setup, resume=True, reward=Planted())


def test_written_answers_as_peft_reads_them(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ln p_i of every token of an answer, its end of turn included, and one file for all runs."""
    monkeypatch.setattr(reading, "fastest_precision", lambda: "fp32")
    setup = training(tmp_path, tiny_base)
    replies = written(setup, "train")
    assert {reply.preference for reply in replies} == {"AA", "BB", "AB", "BA"}
    assert len(replies) == 4 * len(setup.styles.split("train"))
    assert replies == written(setup, "train")
    reply = replies[-1]
    assert setup.tokenizer.decode(reply.tokens) == reply.text + setup.end_of_turn
    prompt = setup.renderer.render(setup.messages(reply.prompt))
    for place, pole in enumerate(setup.pack.space.parse(reply.preference).poles):
        base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, expert_folder(setup, pole)).eval()
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *reply.tokens]])).logits[0]
        exact = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        exact = exact.gather(1, torch.tensor(reply.tokens)[:, None])[:, 0]
        found = torch.tensor(reply.log_probs)[:, place]
        torch.testing.assert_close(found, exact, atol=1e-4, rtol=1e-4)


def planted_answers(count: int, seed: int) -> list[Rollout]:
    """Answers of two tokens in random order; after one the first expert is right, after the other
    the second, whatever the preference."""
    draw, replies = random.Random(seed), []
    for number in range(count):
        tokens = [draw.choice((5, 9)) for _ in range(12)]
        right = [before == 5 for before in [5, *tokens[:-1]]]
        said = tuple((-0.1, -4.0) if first else (-4.0, -0.1) for first in right)
        code = ("AA", "AB", "BA", "BB")[number % 4]
        even = ((0.5, 0.5),) * len(tokens)
        row = Rollout(
            "Hi", code, WRITTEN, "", True, tuple(tokens), said, even, (0.0,) * len(tokens)
        )
        replies.append(row)
    return replies


def test_a_gate_learns_whom_to_listen_to(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far below what any constant weights reach; then the means are put where they should be."""
    setup = training(tmp_path, tiny_base, answers=True)
    held = planted_answers(16, seed=1)
    answers = {"train": planted_answers(96, seed=0), "valid": held}
    monkeypatch.setattr(gating, "written", lambda _, split, __: answers[split])
    torch.manual_seed(0)
    policy = Policy(setup)
    spec = setup.recipe.pcm.answers.model_copy(update={"epochs": 4.0, "head_lr": 2e-2})
    figures, token_scores = fit_gate_to_answers(setup, policy, spec, tmp_path / "log")
    assert figures["held_loss_constant"] == pytest.approx(0.75, abs=0.1)
    assert figures["held_loss"] < 0.5
    assert figures["weights_std"] > 0.2
    targets = {"AA": (0.7, 0.3), "AB": (0.5, 0.5), "BA": (0.5, 0.5), "BB": (0.3, 0.7)}
    assert fit_mean_weights(policy.head, setup.pack.space, targets, token_scores) < 0.02
    with torch.no_grad():
        weights, _ = policy(Collator(setup)(held))
    for code, wanted in targets.items():
        rows = [k for k, reply in enumerate(held) if reply.preference == code]
        mean = weights[rows].mean(dim=(0, 1))
        torch.testing.assert_close(mean, smoothed(wanted), atol=0.03, rtol=0.0)


def test_constant_weights_are_imitated(tiny_base: Path, tmp_path: Path) -> None:
    """What the first iteration begins with where the recipe says so, whatever the text."""
    setup = training(tmp_path, tiny_base)
    policy = Policy(setup)
    targets = {"AA": (1.0, 0.0), "AB": (0.5, 0.5), "BA": (0.4, 0.6), "BB": (0.2, 0.8)}
    assert fit_mean_weights(policy.head, setup.pack.space, targets) < 0.02
    row = ((-1.0, -1.0),)
    replies = [Rollout("Hi", code, "mpd", "", False, (1,), row, row, (0.0,)) for code in targets]
    with torch.no_grad():
        weights, _ = policy(Collator(setup)(replies))
    for found, wanted in zip(weights[:, 0], targets.values(), strict=True):
        torch.testing.assert_close(found, smoothed(wanted), atol=0.03, rtol=0.0)
