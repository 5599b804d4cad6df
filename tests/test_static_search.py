"""The search for the best constant weights, and what replies earn in it and in PCM training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from mpd_core.engine import Engine
from mpd_core.errors import PackError
from mpd_core.method.static import around_uniform, grid
from mpd_core.training import stages
from mpd_core.training.context import TrainingContext
from mpd_core.training.export import trained_pack
from mpd_core.training.measures import repeated
from mpd_core.training.pcm import static_search
from mpd_core.training.pcm.static_search import response_surface
from mpd_core.training.recipe import load_recipe
from mpd_core.training.rollouts import Rollout
from mpd_core.training.scoring.reward_function import ScoredReply, references_of, reward_of
from tests.test_pcm_training import Planted
from tests.training_fixtures import training, write_training_pack


def write_pack(
    folder: Path,
    base: Path,
    strength: float = 1.5,
    change: Mapping[str, str] = {},
) -> TrainingContext:
    """Merged in strength; two prompts, steps of a quarter."""
    decode = f'space = "strength"\nstrength = {strength}'
    change = {"[static]": "[static]\nparts = 4\nfinalists = 2", **change}
    return training(folder, base, decode=decode, change=change)


class Counting(Planted):
    """Counts what it scores, and is killed after so many preferences."""

    def __init__(self, most: int = 100) -> None:
        self.most, self.scored = most, 0

    def score(self, replies: Sequence[Rollout]) -> list[ScoredReply]:
        if not self.most:
            raise KeyboardInterrupt
        self.most -= 1
        self.scored += len(replies)
        return super().score(replies)


@pytest.mark.parametrize("done", [2, 5])
def test_a_search_that_was_cut_off_goes_on(tiny_base: Path, tmp_path: Path, done: int) -> None:
    """Within the grid and within the finals: the same table, and nothing is tried twice."""
    setup = write_pack(tmp_path, tiny_base)
    prompts, said = ["Hi", "Why is it so?"], list[str]()
    whole = Counting()
    file = static_search.search(setup, whole, prompts, said.append)
    assert whole.scored == 4 * 5 + 4 * 2  # the grid on one prompt, finalists on the other
    assert len(said) == 8
    assert "AA: 5 replies in" in said[0]
    expected = json.loads(file.read_text())
    for entry in expected["preferences"].values():
        assert tuple(entry["best"]) in list(grid(2, 4))
        assert entry["points"][0]["reward"] >= entry["points"][-1]["reward"]
    static_search.forget(setup)
    assert not file.exists()
    with pytest.raises(KeyboardInterrupt):
        static_search.search(setup, Counting(done), prompts, said.append)
    assert not file.exists()
    rest = Counting()
    static_search.search(setup, rest, prompts, said.append)
    assert rest.scored == whole.scored - (5 * min(done, 4) + 2 * max(0, done - 4))
    assert json.loads(file.read_text()) == expected
    assert list(file.parent.iterdir()) == [file]


def test_points_around_uniform_by_hand() -> None:
    """Of three experts and of two; one alone has nothing to be weighed against."""
    found = torch.tensor(around_uniform(3))
    third, half, fifth = 1 / 3, [0.5, 0.25, 0.25], [0.2, 0.4, 0.4]
    turned = [[*row[-k:], *row[:-k]] for row in (half, fifth) for k in (3, 1, 2)]
    assert torch.allclose(found, torch.tensor([[third] * 3, *turned]))
    pair = torch.tensor([[0.625, 0.375], [0.375, 0.625], [0.3, 0.7], [0.7, 0.3]])
    assert torch.allclose(torch.tensor(around_uniform(2)[1:]), pair)
    assert around_uniform(1) == ((1.0,),)


def test_a_surface_finds_a_hill_between_its_points_and_no_hill_in_noise() -> None:
    """A planted quadratic with its top at weights that were not tried, under prompts' own levels
    and noise; without the hill the surface is far lower, and equal rewards make it flat."""
    draw = torch.Generator().manual_seed(0)
    tried, at = torch.tensor(around_uniform(3)), torch.tensor(list(grid(3, 20, 0.2)))
    top = torch.tensor([0.45, 0.35, 0.2])
    hill = -2.0 * (tried - top).square().sum(dim=-1, keepdim=True)
    level = torch.randn(1, 200, generator=draw)
    noise = 0.05 * torch.randn(7, 200, generator=draw)
    height = response_surface(tried, level + hill + noise, at)
    assert (at[height.argmax()] - top).abs().max() < 0.051
    assert response_surface(tried, level + noise, at).abs().max() < 0.1 * height.abs().max()
    assert torch.equal(
        response_surface(tried, level.expand(7, -1), at), torch.zeros(len(at)).double()
    )


def test_a_search_by_surface_tries_few_points_on_all_prompts(
    tiny_base: Path, tmp_path: Path
) -> None:
    setup = write_pack(tmp_path, tiny_base)
    change = {"parts = 4": 'parts = 8\ndesign = "surface"'}
    other = write_pack(tmp_path, tiny_base, change=change)
    assert static_search.result(other) != static_search.result(setup)
    scored = Counting()
    prompts = ["Hi", "Why is it so?", "And then?"]
    file = static_search.search(other, scored, prompts, [].append)
    assert scored.scored == 4 * 5 * 3  # preferences, points, prompts
    for entry in json.loads(file.read_text())["preferences"].values():
        assert tuple(entry["best"]) in list(grid(2, 8))
        assert {row["prompts"] for row in entry["points"]} == {3}
        assert [0.5, 0.5] in [row["weights"] for row in entry["points"]]


def test_a_search_under_other_settings_is_another_one(tiny_base: Path, tmp_path: Path) -> None:
    """What was found for one strength, grid, reward or penalty must not stand for another's."""
    files = {static_search.result(write_pack(tmp_path, tiny_base)).name}
    changes = {
        "parts = 4": "parts = 5",
        'algorithm = "rebel"': 'algorithm = "rebel"\naggregate = "soft_min"',
        "samples = 4": "samples = 4\nrepeated = 0.5",
        "max_new_tokens = 6\n[measures]": "max_new_tokens = 7\n[measures]",
    }
    for old, new in changes.items():
        setup = write_pack(tmp_path, tiny_base, change={old: new})
        files.add(static_search.result(setup).name)
    files.add(static_search.result(write_pack(tmp_path, tiny_base, strength=2.0)).name)
    assert len(files) == len(changes) + 2


def test_without_resume_a_search_begins_anew(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = write_pack(tmp_path, tiny_base)
    monkeypatch.setattr(stages, "check_rewards", lambda _: None)
    rewards = [Counting(3), Counting(), Counting()]
    monkeypatch.setattr(stages, "reward_function", lambda _: rewards[0])
    with pytest.raises(KeyboardInterrupt):
        stages.static(setup, stages.Options((), False, print))
    monkeypatch.setattr(stages, "reward_function", lambda _: rewards[1])
    stages.static(setup, stages.Options((), False, print))
    assert rewards[1].scored == 4 * 5 + 4 * 2
    monkeypatch.setattr(stages, "reward_function", lambda _: rewards[2])
    stages.static(setup, stages.Options((), True, print))
    assert rewards[2].scored == 0


@pytest.mark.parametrize("method", ["vanilla", "prompting", "uniform"])
def test_what_rewards_are_measured_against(tiny_base: Path, tmp_path: Path, method: str) -> None:
    """One reply a prompt of the base alone, else one for each preference; kept by the strength
    wherever experts are merged."""
    names = []
    for strength in (1.5, 2.5):
        change = {"[references]": f'[references]\nmethod = "{method}"'}
        setup = write_pack(tmp_path, tiny_base, strength, change)
        references = references_of(setup)
        names.append(references._file.name)
    with Engine.open(trained_pack(setup), precision="fp32") as engine:
        references.ensure(engine, ["Hi"], ["AA", "AB"])
    rows = [json.loads(line) for line in references._file.read_text().splitlines()]
    assert {row["method"] for row in rows} == {method}
    assert len(rows) == (1 if method == "vanilla" else 2)
    assert references.text("Hi", "AB") == rows[-1]["text"]
    assert (names[0] == names[1]) == (method == "vanilla")


@pytest.mark.parametrize("method", ["mpd", "vanila"])
def test_a_reference_that_would_change_or_is_none_is_refused(
    tiny_base: Path, tmp_path: Path, method: str
) -> None:
    change = {"[references]": f'[references]\nmethod = "{method}"'}
    pack = write_training_pack(tmp_path, tiny_base, adapters=True, change=change)
    with pytest.raises(PackError, match=r"train\.toml: references\.method: .*'vanilla'"):
        load_recipe(pack)


def test_replies_that_go_round_or_do_not_end_are_worth_less(
    tiny_base: Path, tmp_path: Path
) -> None:
    """Six runs of four words, one of them said before; both are taken off, for the PCM and for
    static weights alike, of Bradley-Terry and of raw scores."""
    text = "A b c d. E, a b c d"
    assert repeated(text) == pytest.approx(1 / 6)
    assert repeated("a b c") == 0.0
    spec = load_recipe(write_training_pack(tmp_path, tiny_base, adapters=True)).pcm
    rollouts = spec.rollouts.model_copy(update={"unfinished": 0.1, "repeated": 0.6})
    strict = spec.model_copy(update={"rollouts": rollouts})
    row = ((-1.0, -1.0),)
    for finished, off in ((True, 0.1), (False, 0.2)):
        reply = Rollout("Hi", "AA", "mpd", text, finished, (1,), row, row, (0.0,))
        entry = ScoredReply(reply, {"up0": 3.0, "up1": 1.0}, {"up0": 0.9, "up1": 0.5})
        assert reward_of(entry, spec) == pytest.approx(0.7)
        assert reward_of(entry, strict) == pytest.approx(0.7 - off)
        direct = strict.model_copy(update={"reward": "direct"})
        assert reward_of(entry, direct) == pytest.approx(2.0 - off)
