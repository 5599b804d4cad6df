"""Whatever is loaded is computed as transformers computes it, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.masking_utils import causal_mask_function

from mpd_core.engine import Engine
from mpd_core.engine.reference import ReferenceDecoder
from mpd_core.errors import PackError
from mpd_core.models import general
from mpd_core.models.architecture import row_length
from mpd_core.models.linear import can_pack, round_to
from mpd_core.models.probe import cached_bytes
from mpd_core.packs import Pack, load_pack
from tests import tiny
from tests.architectures import (
    COMMON,
    CONTEXT,
    REFUSED,
    RIGHT,
    largest_difference,
    make_model,
    rope,
)
from tests.test_engine import ask, assert_same


@pytest.mark.parametrize(("kind", "settings"), RIGHT.values(), ids=RIGHT.keys())
def test_rows_of_different_texts_are_what_transformers_makes_of_each(
    kind: str, settings: dict[str, Any]
) -> None:
    """Texts longer than any window, read in pieces and then token by token, in fp32."""
    assert largest_difference(make_model(kind, settings)) < 5e-4


@pytest.mark.parametrize(("kind", "settings", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_computed_so_is_refused(
    kind: str, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(PackError, match=sentence) as caught:
        largest_difference(make_model(kind, settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["Mistral, window", "Gemma 3 (windows)", "gpt-oss (windows, sinks)", "GPT-2", "BLOOM (ALiBi)"],
)
def test_packed_weights_are_read_through_the_same_masks(name: str) -> None:
    if not can_pack():
        pytest.skip("this machine has no such kernels")
    model = make_model(*RIGHT[name])
    round_to(model, torch.float16)
    assert largest_difference(model, packed=torch.float16) < 5e-3


def test_the_probe_sees_a_mask_that_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were attention full where the architecture has a window, the base would be refused."""
    own = general._mask

    def full(**arguments: Any) -> Any:
        arguments["mask_function"] = causal_mask_function
        return own(**arguments)

    monkeypatch.setattr(general, "_mask", full)
    with pytest.raises(PackError, match="MistralForCausalLM gives other states in rows"):
        largest_difference(make_model(*RIGHT["Mistral, window"]))


MEASURED = {
    "Gemma 4 (heads of two widths)": 2 * (2 * 16 + 2 * 32),
    "Gemma 3n (layers that share keys)": 2 * (2 * 16 + 2 * 16),
    "DeepSeek-V2 (latent attention)": 4 * (16 + 8),
    "LLaMA, wide heads": 4 * 2 * (32 + 32),
    "GPT-BigCode (one key head)": 4 * 1 * (16 + 16),
}
"""Numbers that each caches of one token: layers that cache, heads, widths of keys and values."""


@pytest.mark.parametrize("name", MEASURED)
def test_what_a_token_takes_is_measured(name: str) -> None:
    """Configurations differ in what they call it, and some have it by layer."""
    assert cached_bytes(make_model(*RIGHT[name])) == 4 * MEASURED[name]


@pytest.mark.parametrize(
    ("kind", "settings", "length"),
    [
        ("xlnet", {}, CONTEXT),
        ("llama", {"max_position_embeddings": 40}, 40),
        ("llama", {"max_position_embeddings": 40, **rope("dynamic", factor=2.0)}, 39),
        ("mpt", {"max_seq_len": 127}, 64),
    ],
)
def test_a_row_is_as_long_as_there_are_positions(
    kind: str, settings: dict[str, Any], length: int
) -> None:
    """XLNet's number of them is -1: as many as one likes."""
    assert row_length(AutoConfig.for_model(kind, **settings), CONTEXT) == length


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"max_position_embeddings": 1, **rope("dynamic", factor=2.0)}),
        ("mpt", {"max_seq_len": 63}),
    ],
)
def test_a_base_without_positions_is_refused(kind: str, settings: dict[str, Any]) -> None:
    with pytest.raises(PackError, match=r"^base: its config\.json leaves no position"):
        row_length(AutoConfig.for_model(kind, **settings), CONTEXT)


def save(folder: Path, kind: str, settings: dict[str, Any]) -> Pack:
    tokenizer = tiny.make_tokenizer()
    sizes = {name: len(tokenizer) for name in settings if name.startswith("vocab_size")}
    settings = {**settings, **sizes}
    if "text_config" in settings:
        settings["text_config"] = {**settings["text_config"], "vocab_size": len(tokenizer)}
    make_model(kind, settings).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    file = tiny.write_pack(folder, folder / "base", dimensions=1) / "pack.toml"
    file.write_text(file.read_text().replace("context = 1024", f"context = {CONTEXT}"))
    return load_pack(folder)


VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
VISION |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
WHOLE = {
    "Gemma 4": RIGHT["Gemma 4 (heads of two widths)"],
    "OPT, projected embedding": RIGHT["OPT, projected embedding"],
    "Gemma 3 that sees": (
        "gemma3",
        {**COMMON, "mm_tokens_per_image": 4, "vision_config": VISION}
        | {"text_config": RIGHT["Gemma 3 (windows)"][1]},
    ),
}


@pytest.mark.parametrize(("kind", "settings"), WHOLE.values(), ids=WHOLE)
def test_an_engine_over_it_says_what_the_slow_decoder_says(
    tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    pack, request = save(tmp_path, kind, settings), ask("the cat sat on the mat", "A")
    engine = Engine.open(pack, device="cpu", precision="fp32")
    steps = engine.generate(request).steps
    engine.close()
    oracle = ReferenceDecoder(pack, precision="fp32")
    assert_same(steps, tuple(oracle.decode(request)), tolerance=1e-4)


@pytest.mark.parametrize(("kind", "settings", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_an_engine_over_it_is_refused_as_well(
    tmp_path: Path, kind: str, settings: dict[str, Any], sentence: str
) -> None:
    """In one line, wherever on the way it is found out."""
    with pytest.raises(PackError, match=f"{sentence}|keeps no keys and values") as caught:
        Engine.open(save(tmp_path, kind, settings), device="cpu", precision="fp32")
    assert "\n" not in str(caught.value)
