"""Evaluation: replies by every method, judged by measures that no model was trained on."""

from __future__ import annotations

from typing import Any, Literal

Figures = dict[str, Any]
"""Figures of a report, as JSON values."""

JudgeName = Literal["measures", "rewards", "server", "readers"]
"""Judges that a command can select."""
