"""Topic similarity of prompt and reply: cosine of static word vectors from a package.

The vectors are those of ``wordllama`` (a table of token vectors, averaged; it lies as safetensors
with its tokenizer in the package's folder). Both files are opened by path: the package's own code
does not run and nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mpd_core.errors import MPDError

PACKAGE = "wordllama"
TENSOR = "embedding.weight"
TABLES, TOKENIZERS = "*.safetensors", "*tokenizer*.json"
MOST_CHARACTERS = 20_000


class Topic:
    """Text vectors, the mean of their tokens' vectors."""

    def __init__(self, folder: Path) -> None:
        """Read the one table and the one tokenizer below a folder.

        Raises:
            MPDError: there is not exactly one of each, or one cannot be read.
        """
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        files = {pattern: [*folder.rglob(pattern)] for pattern in (TABLES, TOKENIZERS)}
        for pattern, found in files.items():
            if len(found) != 1:
                raise MPDError(
                    f"{folder}: needs one file {pattern}, has {len(found)}: reinstall {PACKAGE}."
                )
        try:
            table = load_file(*files[TABLES])[TENSOR]
            self._table: NDArray[np.float32] = table.astype(np.float32)
            self._tokenizer = Tokenizer.from_file(*map(str, files[TOKENIZERS]))
        except Exception as error:  # safetensors and tokenizers raise classes of their own
            raise MPDError(f"{folder}: its vectors cannot be read ({error}).") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    @staticmethod
    @cache
    def installed() -> Topic | None:
        """The package's vectors, read once; None where it is not installed."""
        found = importlib.util.find_spec(PACKAGE)
        places = found.submodule_search_locations if found else None
        return Topic(Path(next(iter(places)))) if places else None

    def similarity(self, prompt: str, reply: str) -> float:
        """Cosine of prompt and reply, -1 to 1; 0 where either has no known token."""
        one, other = self._mean(prompt), self._mean(reply)
        size = float(np.linalg.norm(one) * np.linalg.norm(other))
        return float(one @ other) / size if size else 0.0

    def _mean(self, text: str) -> NDArray[np.float32]:
        encoded = self._tokenizer.encode(text[:MOST_CHARACTERS], add_special_tokens=False)
        ids = [index for index in encoded.ids if index < len(self._table)]
        mean: NDArray[np.float32] = self._table[ids].mean(0) if ids else 0 * self._table[0]
        return mean
