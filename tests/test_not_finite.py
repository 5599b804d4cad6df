"""A distribution that is not finite ends its own request with an error, and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from mpd_core.engine import Engine
from mpd_core.engine.records import NOT_FINITE
from mpd_core.engine.reference import ReferenceDecoder
from mpd_core.errors import EngineError
from mpd_core.models.rows import RowModel
from mpd_core.packs import Pack, file_sha256, load_pack
from mpd_core.request import GenerationRequest
from tests import tiny
from tests.test_engine import ask, assert_same

LONG, SHORT = "explain 你好 😀 " * 12, "Hi"
KINDS = ("llama", "fixed-shapes", "qwen2")


def save_overflowing_adapter(
    base: Path, folder: Path, *, alpha: int = 10**22, std: float = 0.2
) -> str:
    """By default every factor is an ordinary number; what they make of an input is not."""
    torch.manual_seed(1)
    config = LoraConfig(r=2, lora_alpha=alpha, target_modules=["up_proj", "gate_proj"])
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=std)
    adapted.save_pretrained(folder)
    sha = file_sha256(folder / "adapter_model.safetensors")
    return f'[experts.adapters.{folder.name}]\nfolder = "{folder}"\nsha256 = "{sha}"'


@pytest.fixture(scope="module", params=KINDS)
def pack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    folder = tmp_path_factory.mktemp(request.param)
    save = tiny.save_qwen2 if request.param == "qwen2" else tiny.save_base
    save(folder / "base", seed=0)
    experts = save_overflowing_adapter(folder / "base", folder / "up1")
    return load_pack(tiny.write_pack(folder, folder / "base", dimensions=2, experts=experts))


@pytest.fixture
def engine(pack: Pack, request: pytest.FixtureRequest) -> Iterator[Engine]:
    graphs = "fixed-shapes" in request.node.name
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mpd_core.engine.build.RowModel", partial(RowModel, graphs=graphs))
        engine = Engine.open(pack, device="cpu", kept_rows=0)
    yield engine
    engine.close()


def broken(prompt: str, method: str = "mpd") -> GenerationRequest:
    return ask(prompt, "AA", method, max_new_tokens=20)


def good(prompt: str) -> GenerationRequest:
    return ask(prompt, "BB", max_new_tokens=12, temperature=1.0, seed=5)


@pytest.mark.parametrize("method", ["mpd", "uniform", "expert:up1"])
@pytest.mark.parametrize("space", ["probability", "logit"])
def test_it_is_an_error_and_never_text(engine: Engine, method: str, space: str) -> None:
    stream = engine.submit(ask(LONG, "AA", method, space, temperature=1.0))  # type: ignore[arg-type]
    seen = []
    with pytest.raises(EngineError) as raised:
        seen.extend(stream)
    assert str(raised.value) == NOT_FINITE
    assert seen == []


def test_neighbours_keep_their_bits(engine: Engine) -> None:
    """Beside it, and after it in the rows that it leaves, which it had written further."""
    alone = {prompt: engine.generate(good(prompt)).steps for prompt in (SHORT, LONG)}
    for _ in range(3):
        first = engine.submit(good(LONG))
        bad = [engine.submit(broken(LONG, method)) for method in ("mpd", "expert:up1")]
        second = engine.submit(good(SHORT))
        assert tuple(second) == alone[SHORT]
        assert tuple(first) == alone[LONG]
        for stream in bad:
            with pytest.raises(EngineError, match="not finite"):
                list(stream)


def test_a_row_is_clean_for_whoever_has_it_next(engine: Engine) -> None:
    """One row each, the first of the cache."""
    alone = engine.generate(ask(SHORT, "AA", "vanilla")).steps
    with pytest.raises(EngineError, match="not finite"):
        engine.generate(broken(LONG, "expert:up1"))
    assert engine.generate(ask(SHORT, "AA", "vanilla")).steps == alone


def test_an_adapter_that_overflows_at_once_is_nothing_to_rows_without_it(tmp_path: Path) -> None:
    """Side by side, as on a GPU, each row's inputs go through the factors of all adapters."""
    base = tiny.save_base(tmp_path / "base", seed=0)
    tables = [
        save_overflowing_adapter(base, tmp_path / "up1", std=6e37),
        save_overflowing_adapter(base, tmp_path / "down1", alpha=2),
    ]
    folder = tiny.write_pack(tmp_path, base, dimensions=2, experts="\n".join(tables))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mpd_core.engine.build.RowModel", partial(RowModel, graphs=True))
        engine = Engine.open(load_pack(folder), device="cpu", precision="fp32", kept_rows=0)
    good = ask(SHORT, "BB", "expert:down1", max_new_tokens=40)
    alone = engine.generate(good).steps
    mine, bad = engine.submit(good), engine.submit(broken(LONG, "expert:up1"))
    assert_same(tuple(mine), alone, tolerance=1e-5)
    with pytest.raises(EngineError, match="not finite"):
        list(bad)
    engine.close()


def test_the_slow_decoder_says_the_same(pack: Pack) -> None:
    with pytest.raises(EngineError, match="not finite"):
        next(ReferenceDecoder(pack).decode(broken(SHORT)))
