"""Whatever is loaded is computed as transformers computes it, or refused in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.masking_utils import causal_mask_function

from mpd_core.errors import PackError
from mpd_core.models import general
from mpd_core.models.linear import can_pack, round_to
from tests.architectures import REFUSED, RIGHT, largest_difference, make_model


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


PACKED = (
    "Mistral, window",
    "Gemma 3 (windows)",
    "gpt-oss (windows, sinks)",
    "GPT-2",
    "BLOOM (ALiBi)",
)


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
