"""The tokens that end a reply."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpd_core.errors import PackError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_FILES, END_KEY = ("generation_config.json", "config.json"), "eos_token_id"
"""Where a base's own files name them."""


def end_tokens(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> frozenset[int]:
    """Ids of the tokens that end a reply: the pack's choice, ``names``, or else all that the
    tokenizer and the configuration of its base's folder name.

    Raises:
        PackError: a name that is no token, a configuration that cannot be read, or no end at all.
    """
    if names:
        return frozenset(_named(tokenizer, name) for name in names)
    own = tokenizer.eos_token_id
    folder = tokenizer.name_or_path
    ids = {*(_configured(Path(folder)) if folder else ()), *(() if own is None else (own,))}
    if not ids:
        raise PackError("template.end_of_turn: name the token that ends a reply.")
    return frozenset(ids)


def _named(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(name)
    if token_id is None or tokenizer.convert_ids_to_tokens(token_id) != name:
        raise PackError(f"template.end_of_turn: the tokenizer has no token '{name}'.")
    return int(token_id)


def _configured(folder: Path) -> list[int]:
    """What generation goes by, as in transformers; the model's configuration where that is mute."""
    for name in END_FILES:
        file = folder / name
        if not file.is_file():
            continue
        try:
            config: Any = json.loads(file.read_text(encoding="utf-8-sig"))
            found = config.get(END_KEY)
            if found is None:  # models of text and images keep it with the text's part
                found = (config.get("text_config") or {}).get(END_KEY)
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise PackError(f"base: {file} cannot be read: {error}") from error
        ids = found if isinstance(found, list) else [] if found is None else [found]
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
            raise PackError(
                f"base: {file}: {END_KEY} is {found!r}: give a number, or a list of them."
            )
        if ids := [i for i in ids if i >= 0]:  # some write -1 for none
            return ids
    return []
