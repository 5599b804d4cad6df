"""Evaluation: replies by every method, judged by measures that no model was trained on."""

from __future__ import annotations

from typing import Any, Literal

Figures = dict[str, Any]
"""What a report holds, ready for JSON."""

JudgeName = Literal["measures", "rewards", "server"]
"""Everybody who can be asked to judge by a command."""
