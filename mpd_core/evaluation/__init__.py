"""Evaluation: replies by every method, judged by measures that no model was trained on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Literal, TypeVar

Figures = dict[str, Any]
"""Figures of a report, as JSON values."""
Found = Mapping[str, Any]
"""The same, or a part of them, to be read."""

JudgeName = Literal["measures", "rewards", "server", "readers"]
"""Judges that a command can select."""

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


def union(rows: Iterable[Iterable[str]]) -> list[str]:
    """All names in these rows, each once, as they first appear: the columns of a table."""
    return list(dict.fromkeys(itertools.chain.from_iterable(rows)))


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items that have the same key, under it, in the order in which they come."""
    found: dict[Key, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found
