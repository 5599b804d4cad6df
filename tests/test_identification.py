"""Which poles replies show: shares by hand, and the likelihood that the base gives a reply."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from mpd_core.evaluation.held_out import identification
from mpd_core.training import teacher_forcing as reading
from mpd_core.training.context import TrainingContext
from mpd_core.training.rollouts import Rollout
from mpd_core.training.scoring.reward_models import Asked
from tests.training_fixtures import write_training_pack


def reply(code: str, text: str, tokens: Sequence[int] = (5,)) -> Rollout:
    even = ((1.0,),) * len(tokens)
    return Rollout("Hi", code, "mpd", text, True, tuple(tokens), even, even, (0.0,) * len(tokens))


class Words:
    """A reward model of each pole that counts its letter."""

    def score(self, asked: Sequence[Asked]) -> list[dict[str, float]]:
        letters = {"up0": "a", "down0": "b", "up1": "x", "down1": "y"}
        return [{n: float(text.count(letters[n])) for n in names} for _, text, names in asked]


def test_shares_by_hand(tiny_base: Path, tmp_path: Path) -> None:
    """Of two AB replies one shows A, both show B; of the one BA reply neither letter shows."""
    pack = write_training_pack(tmp_path, tiny_base, adapters=True)
    replies = [reply("AB", "a y"), reply("AB", "b y"), reply("BA", "a y")]
    rows = [{"prompt": r.prompt, "text": r.text} for r in replies]
    shown = identification.by_rewards(pack.space, Words(), rows)
    assert shown("Hi", "a y") == {"dim0": "up0", "dim1": "down1"}
    setup = TrainingContext.open(pack, tmp_path / "out")
    table = identification.identify(setup, Words(), {"mpd": replies, "soup": replies[:1]})
    rewards = {
        method: {code: {name: c["reward"] for name, c in row.items()} for code, row in by.items()}
        for method, by in table.items()
    }
    assert rewards == {
        "mpd": {"AB": {"dim0": 0.5, "dim1": 1.0}, "BA": {"dim0": 0.0, "dim1": 0.0}},
        "soup": {"AB": {"dim0": 1.0, "dim1": 1.0}},
    }


def test_the_bare_bases_likelihood(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean ln p over all tokens of a method's replies, as transformers says."""
    monkeypatch.setattr(reading, "fastest_precision", lambda: "fp32")
    setup = TrainingContext.open(
        write_training_pack(tmp_path, tiny_base, adapters=True), tmp_path / "out"
    )
    replies = [reply("AA", "", (5, 9, 11)), reply("AB", "", (7, 8))]
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    prompt = setup.ids(setup.prompt("Hi"))
    total = 0.0
    for one in replies:
        with torch.no_grad():
            said = model(torch.tensor([[*prompt, *one.tokens]])).logits[0].log_softmax(-1)
        total += sum(float(said[len(prompt) - 1 + k, t]) for k, t in enumerate(one.tokens))
    found = identification.likelihood(setup, {"mpd": replies})
    assert found == {"mpd": pytest.approx(total / 5, abs=1e-4)}
