"""From a GGUF file to what ``from_pretrained`` reads at once: done once for each base.

``save_pretrained`` refuses a model that was read from a GGUF, so the files are written here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpd_core.errors import ModelSourceError, others_as
from mpd_core.models.files import BLOCKS, LOCAL, need_space

if TYPE_CHECKING:
    from mpd_core.models.gguf_file import GGUFContents

SAMPLE = " The  cat's 2026 naïve\n\n1.\n\n\t日本 😀 <x>, isn't it? "
"""Text of many kinds, to tell tokenizers apart by."""


def convert_gguf(gguf: Path, target: Path, origin: str) -> None:
    """Write the GGUF's model as config, tokenizer and fp32 ``model.safetensors``.

    Beside them lie the blocks of what a CPU multiplies as it is: a fifth of the bytes.

    Args:
        gguf: the file; its hash has been checked.
        target: an existing, empty folder.
        origin: where the model comes from, for the configuration.

    Raises:
        ModelSourceError: transformers cannot read the file, or would lose some of it, or there is
            no room for the result.
    """
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    with quiet_transformers(), _no_gguf_bar(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        contents, tokenizer, model = _read(gguf)
        config = model.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # the weights are plain fp32 from here on
        config._name_or_path = config._model_name_or_path = origin
        # Those that share storage once, which is how safetensors takes them. Backwards, so that of
        # the two the embedding is kept, which comes before the output layer.
        state = model.state_dict()
        names = {tensor.data_ptr(): name for name, tensor in reversed(state.items())}
        tensors = {name: state[name].contiguous() for name in names.values()}
        blocks = contents.blocks(model)
        need_space(target, sum(t.nbytes for t in (*tensors.values(), *blocks.values())))
        _say_outright(contents, tokenizer, config)
        config.save_pretrained(target)
        if len(contents.ends) > 1:
            GenerationConfig(eos_token_id=contents.ends).save_pretrained(target)
        tokenizer.save_pretrained(target)
        _check_kept(tokenizer, target, gguf.name)
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        if blocks:
            save_file(blocks, target / BLOCKS)


def _read(gguf: Path) -> tuple[GGUFContents, Any, Any]:
    """A file, and the tokenizer and the model that transformers makes of it: all is in them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mpd_core.models.gguf_file import GGUFContents

    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name, **LOCAL}
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
    options["ignore_mismatched_sizes"] = True  # told in ``info``, and refused in fewer words
    with _reading(gguf.name):
        contents = GGUFContents(gguf)
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model, info = AutoModelForCausalLM.from_pretrained(**where, **options)
        contents.check(model, tokenizer, info)
    return contents, tokenizer, model


def _reading(name: str) -> AbstractContextManager[None]:
    """Whatever a file that transformers does not know can do to it."""
    return others_as(
        ModelSourceError,
        lambda why: (
            f"{name} could not be converted ({why}): use a GGUF whose architecture "
            "transformers supports, or a safetensors source."
        ),
    )


def _check_kept(tokenizer: Any, target: Path, name: str) -> None:
    """A tokenizer of a class that its architecture does not usually have may be read as another."""
    from mpd_core.models.light import read_tokenizer

    with _reading(name):
        kept = read_tokenizer(target)
        same = kept(SAMPLE)["input_ids"] == tokenizer(SAMPLE)["input_ids"]
    if not same:
        raise ModelSourceError(
            f"{name} has a tokenizer that transformers reads otherwise once it is saved; "
            "use the model's safetensors as the source."
        )


def _say_outright(contents: GGUFContents, tokenizer: Any, config: Any) -> None:
    """What some versions of transformers take from a GGUF wrongly, or leave to a default."""
    for kind, token_id in contents.roles.items():
        if kind == "unk" and token_id is None:
            continue  # a vocabulary needs one, whatever the file calls it
        setattr(config, f"{kind}_token_id", token_id)
        token = None if token_id is None else tokenizer.convert_ids_to_tokens(token_id)
        setattr(tokenizer, f"{kind}_token", token)
    # Tidying would drop spaces before punctuation, and a reply's steps must join to its text.
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.init_kwargs["clean_up_tokenization_spaces"] = False


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence its bars and its log, which it keeps as global state."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _no_gguf_bar() -> Iterator[None]:
    """The GGUF reader has a bar of its own that no setting turns off."""
    from transformers import modeling_gguf_pytorch_utils as reader

    bar = getattr(reader, "tqdm", None)  # where a later version has it elsewhere, it is shown
    reader.tqdm = lambda tensors, **_: tensors
    try:
        yield
    finally:
        reader.tqdm = bar
