"""Models that a pack names beside its base: other checkpoints, a backbone, experts elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mpd_core.engine.plan import PCM
from mpd_core.errors import PackError
from mpd_core.models.base import LoadedModel, in_blocks, load_model, weight_format
from mpd_core.models.light import read_tokenizer
from mpd_core.models.vocabulary import check_reads_alike, check_same_vocabulary
from mpd_core.packs import Pack, Precision, Source
from mpd_core.prompts import PromptRenderer
from mpd_core.remote.expert import RemoteExpert
from mpd_core.sources.obtain import obtain


def check_prompts(pack: Pack, folder: Path) -> None:
    """Render a prompt before gigabytes are read: a template that fails should not wait for them."""
    try:
        tokenizer = read_tokenizer(folder)
    except Exception:  # of any kind: ``load_model`` says what is wrong with it
        return
    PromptRenderer(tokenizer, pack.spec.template)


def remotes(pack: Pack, vocab_size: int, *, keep: bool = True) -> dict[str, RemoteExpert]:
    """Clients of the remote experts; ``keep=False`` only finds out whether they can be made."""
    made = {}
    for name, table in pack.spec.experts.remotes.items():
        if table.ca_file:
            table = table.model_copy(update={"ca_file": pack.path(table.ca_file)})
        made[name] = RemoteExpert(name, table, vocab_size)
        if not keep:
            made[name].close()
    return made


def other_expert(
    pack: Pack,
    name: str,
    source: Source,
    base: LoadedModel,
    precision: Precision,
    progress: Callable[[str], None],
) -> LoadedModel:
    """A checkpoint of the base's vocabulary; errors as ``build``."""
    progress(f"Loading the expert '{name}'.")
    folder = obtain(pack, source, progress=progress)
    with told_of(pack, name):
        other = load_model(folder, in_blocks(base.format, precision, folder))
    check_same_vocabulary(base.tokenizer, other.tokenizer, name)
    return other


def backbone(
    pack: Pack, source: Source, base: LoadedModel, progress: Callable[[str], None]
) -> LoadedModel:
    """The PCM's own backbone; errors as ``build``."""
    progress("Loading the Preference Control Model's backbone.")
    folder = obtain(pack, source, progress=progress)
    with told_of(pack, PCM):
        format_ = in_blocks(weight_format(base.format.device), "auto", folder)
        backbone = load_model(folder, format_)
    missing = len(base.tokenizer) - backbone.config.vocab_size
    if missing > len(base.tokenizer.added_tokens_decoder):
        raise PackError(
            f"pcm.backbone: its vocabulary lacks {missing} tokens of the base's tokenizer; "
            "use a backbone with the same tokenizer."
        )
    check_reads_alike(base.tokenizer, backbone.tokenizer, "pcm.backbone")
    return backbone


@contextmanager
def told_of(pack: Pack, lane: str) -> Iterator[None]:
    """Errors under a pack's key of a lane's model; who loads and checks one calls it the base."""
    key = "pcm.backbone" if lane == PCM else "base"
    if lane in pack.spec.experts.checkpoints:
        key = f"experts.checkpoints.{lane}"
    try:
        yield
    except PackError as error:
        raise PackError(re.sub("^base: ", f"{key}: ", str(error))) from error
