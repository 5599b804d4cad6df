"""Criteria for an LLM judge: descriptions of the paper's six poles, with worked examples.

The words are our own and stand in ``criteria.json``; stored verdicts are keyed by a hash of them. A
pole that is not among them is described by its own instruction, with the example of another
dimension to show the form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Example:
    """Two replies to one instruction, what a careful reader thinks of them, and the verdict."""

    instruction: str
    first: str
    second: str
    thought: str
    verdict: str


_WORDS = json.loads(Path(__file__).with_name("criteria.json").read_text(encoding="utf-8"))
RULES: str = _WORDS["rules"]
SINGLE_RULES: str = _WORDS["single_rules"]
CRITERIA: Mapping[str, str] = _WORDS["criteria"]
EXAMPLES: Mapping[str, tuple[Example, ...]] = {
    pole: tuple(Example(**example) for example in examples)
    for pole, examples in _WORDS["examples"].items()
}
FORM = EXAMPLES["elementary"]
"""Shown for a pole that has no example of its own."""
