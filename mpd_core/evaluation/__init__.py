"""Evaluation: replies by every method, judged by measures that no model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Figures = dict[str, Any]
"""Figures of a report, as JSON values."""
Found = Mapping[str, Any]
"""The same, or a part of them, to be read."""

JudgeName = Literal["measures", "rewards", "server", "readers"]
"""Judges that a command can select."""
