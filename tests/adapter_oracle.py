"""Makes an adapter of some kind with PEFT, and holds the row model against PEFT on it."""

from __future__ import annotations

import copy
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

from mpd_core.errors import PackError
from mpd_core.models.adapters import load_adapter
from mpd_core.models.rows import RowModel
from tests import tiny
from tests.adapter_kinds import Kind


@cache
def base_folder(name: str) -> Path:
    """A tiny base, written once a process."""
    folder = Path(tempfile.mkdtemp(prefix="mpd-kinds-")) / name
    tokenizer = tiny.make_tokenizer()
    shape = {**tiny.SHAPE, "vocab_size": len(tokenizer), "hidden_size": 64}
    shape["initializer_range"] = 0.1
    configs = {
        "llama": lambda: LlamaConfig(**shape, tie_word_embeddings=False),
        "tied": lambda: LlamaConfig(**shape, tie_word_embeddings=True),
        "qwen2": lambda: Qwen2Config(**shape, tie_word_embeddings=False),
        "gpt2": lambda: GPT2Config(
            vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=4, initializer_range=0.1
        ),
    }
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(configs[name]()).save_pretrained(folder)
    return folder


@cache
def _base(name: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(base_folder(name)).eval()


def base(name: str) -> Any:
    """A fresh model, which whoever takes it may change."""
    return copy.deepcopy(_base(name))


def make(kind: Kind, folder: Path) -> Path:
    """Write the adapter, trained at random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        model = get_peft_model(base(kind.base), kind.config(**kind.options))
        options = dict(kind.save)
        if kind.convert:
            model.save_pretrained(folder / "start")
            options["path_initial_model_for_weight_conversion"] = str(folder / "start")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    noise = torch.randn_like(parameter)
                    parameter.copy_(parameter + 0.02 * noise if kind.convert else 0.2 * noise)
        model.save_pretrained(folder, **options)
    kind.edit(folder)
    return folder


def differences(kind: Kind, folder: Path) -> tuple[float, float]:
    """Largest of log-probabilities to PEFT, of both decoders, the adapted row between bare ones;
    and of PEFT's to the bare base's.

    Raises:
        PackError: it is refused.
    """
    adapter = load_adapter("mine", folder)
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(0, 400, (3, 9), generator=generator)
    mixes = [(), (("mine", 1.0),), ()]
    found = []
    for lean in (True, False) if kind.base in ("llama", "tied") else (False,):
        rows = RowModel(base(kind.base), [adapter], capacity=3, length=64, lean=lean)
        rows.forward(texts[:, :-1], torch.arange(8).expand(3, -1), 0, mixes)
        hidden = rows.forward(texts[:, -1:], torch.full((3, 1), 8), 0, mixes)
        found.append(rows.log_probs(hidden[:, 0], mixes))
        assert torch.equal(rows.log_probs(hidden[1:, 0], mixes[1:]), found[-1][1:])
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        bare = _base(kind.base)(texts).logits[:, -1].log_softmax(-1)
        model = PeftModel.from_pretrained(base(kind.base), folder).eval()
        said = model(texts[1:2]).logits[:, -1].log_softmax(-1)
    expected = torch.cat([bare[:1], said, bare[2:]])
    wrong = max(float((log_probs - expected).abs().max()) for log_probs in found)
    return wrong, float((said - bare[1]).abs().max())


def outcome(kind: Kind) -> str:
    """The largest difference, or the sentence of the refusal."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = make(kind, Path(scratch))
        try:
            return f"right ({differences(kind, folder)[0]:.0e})"
        except PackError as error:
            return "refused: " + str(error).replace(f"{folder}/", "").replace("|", "\\|")
