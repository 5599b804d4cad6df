"""Prompts to evaluate on: from a file, or a split of the pack's own written answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from mpd_core.errors import RequestError, others_as
from mpd_core.packs import Pack
from mpd_core.request import MAX_CHARACTERS
from mpd_core.training.data import Split, load_styles
from mpd_core.training.recipe import load_recipe

MOST_PROMPTS = 100_000
MOST_BYTES = 256 << 20
HUB, JSON_NAMES = "hub:", (".jsonl", ".json")
FIELDS = ("prompt", "instruction", "question", "text")
"""Names under which a line of JSON may hold its prompt; the first that is there counts."""


@dataclass(frozen=True)
class Prompt:
    """An instruction with a name of its own."""

    id: str
    text: str


def prompts_of(pack: Pack, source: str, limit: int | None = None) -> list[Prompt]:
    """The prompts of a file or of a split.

    Args:
        pack: whose written answers a split's name means.
        source: a ``.jsonl`` file, a text with a prompt a line, ``train``, ``valid``, ``test``, or
            such a file of a data set on the Hugging Face hub, ``hub:OWNER/NAME/FILE``.
        limit: only the first ones.

    Raises:
        RequestError: no such file or split, a line that cannot be read, or no prompt at all.
        PackError: a recipe or written answers that cannot be read.
    """
    if source in get_args(Split):
        rows = load_styles(pack.path(load_recipe(pack).data.file)).split(source)  # type: ignore[arg-type]
        found = [Prompt(row.id, row.prompt) for row in rows]
    else:
        found = _read(_from_hub(source) if source.startswith(HUB) else Path(source).expanduser())
    found = found[:limit]
    if not found:
        raise RequestError(f"--prompts {source[:200]}: there is no prompt in it.")
    ids = {prompt.id for prompt in found}
    if len(ids) < len(found):
        raise RequestError(f"--prompts {source[:200]}: two prompts have the same id.")
    return found


def _from_hub(source: str) -> Path:
    """Path of the file in the hub's cache; downloaded if missing."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    from mpd_core.sources.hub import hub_answers

    owner, name, file = [*source.removeprefix(HUB).split("/", 2), "", ""][:3]
    if not (owner and name and file):
        raise RequestError(f"--prompts {source[:200]}: write hub:OWNER/NAME/FILE.jsonl.")
    repo, place = f"{owner}/{name}", f"--prompts {source[:200]}"
    with others_as(
        RequestError,
        lambda why: f"{place}: cannot be obtained: {why} Check the names, or give a file.",
    ):
        if isinstance(held := try_to_load_from_cache(repo, file, repo_type="dataset"), str):
            return Path(held)
        if not hub_answers():
            raise RequestError(f"{place}: the Hugging Face hub does not answer.")
        return Path(hf_hub_download(repo, file, repo_type="dataset"))


def _read(file: Path) -> list[Prompt]:
    if not file.is_file():
        splits = ", ".join(get_args(Split))
        raise RequestError(f"--prompts {str(file)[:200]}: no such file; give one, or {splits}.")
    if file.stat().st_size > MOST_BYTES:
        raise RequestError(f"--prompts {file}: over {MOST_BYTES >> 20} MB: split it.")
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise RequestError(f"--prompts {file}: not UTF-8 ({error}).") from None
    kept = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if len(kept) > MOST_PROMPTS:
        raise RequestError(f"--prompts {file}: over {MOST_PROMPTS:,} prompts: split it.")
    return [
        _prompt(f"--prompts {file}:{number}", number, line, as_json=file.suffix in JSON_NAMES)
        for number, line in kept
    ]


def _prompt(place: str, number: int, line: str, *, as_json: bool) -> Prompt:
    id, text = str(number), line.strip()
    if as_json:
        try:
            row: Any = json.loads(line)
        except ValueError as error:
            raise RequestError(f"{place}: not JSON ({error}).") from None
        found = [row[name] for name in FIELDS if name in row] if isinstance(row, dict) else []
        if not found or not isinstance(found[0], str):
            raise RequestError(f"{place}: needs text under one of {', '.join(FIELDS)}.")
        id, text = str(row.get("id", number)), found[0]
    if not text.strip():
        raise RequestError(f"{place}: the prompt is empty.")
    if any("\ud800" <= character <= "\udfff" for character in id + text):
        raise RequestError(f"{place}: half of a surrogate pair is no text: take it out.")
    if len(text) > MAX_CHARACTERS:
        raise RequestError(f"{place}: over {MAX_CHARACTERS:,} characters: shorten it.")
    return Prompt(id, text)
