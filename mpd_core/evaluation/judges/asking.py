"""Prompts for an LLM judge, and parsing of its answers.

The words of the prompts, with the paper's six poles and worked examples, are our own and stand in
``criteria.json``; stored verdicts are keyed by a hash of them. A pole that is not among them is
described by its own instruction, with the example of another dimension to show the form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mpd_core.evaluation.judging import Question, Single

Messages = list[dict[str, str]]


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

MOST_CHARACTERS = 12_000
"""Of each reply that is shown; the rest is cut, and the cut is said."""
MOST_READ = 4_000
"""Characters of an answer's end, where its verdict stands: a server need not keep to a limit, and
the patterns below take the square of a run of marks."""

_THINKING = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_UNENDED = re.compile(r"^.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_SAID = {"1": 1, "first": 1, "2": -1, "second": -1}
"""All other words of a verdict are those of a tie."""
_NOUN = r"(?:output|reply|response|answer)"
_BLANKS = re.compile(r"\s+")
_OPEN, _CLOSE = r"[\"'*_`\s\[(<]*", r"[\"'*_`\])>]*"
_PLAIN = r"(?:1|2|tie|draw|equal|neither)\b(?![.,]\d)"
_ORDINAL = rf"(?:first|second)\b(?=\s*(?:{_NOUN}|one)?{_CLOSE}\s*(?:[.,;!]|is\b|wins\b|$))"
_OTHER = rf"{_CLOSE}\s*(?:[,/|]|or\b|and\b)\s*(?:or\s+)?{_OPEN}(?:{_NOUN}\s+)?(?:1|2|tie|second)\b"
_VERDICT = re.compile(
    rf"verdict\b{_OPEN}(?:is\b)?\s*[:=\-]?{_OPEN}(?:(?:the|an?(?=\s+(?:tie|draw)))\s+)?"
    rf"(?:{_NOUN}\b[\s#]*)?(?P<said>{_PLAIN}|{_ORDINAL})(?!{_OTHER})",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBER = r"(?P<said>neither|[1-9]\d?\b(?![.,]\d))"
_CHOICE = re.compile(
    rf"verdict\b{_OPEN}(?:is\b)?\s*[:=\-]?{_OPEN}{_NUMBER}"
    rf"(?!{_CLOSE}\s*(?:[,/|]|or\b|and\b)\s*(?:or\s+)?{_OPEN}(?:\d|neither))",
    re.IGNORECASE,
)
_CHOSEN_ALONE = re.compile(rf"{_OPEN}{_NUMBER}{_CLOSE}\.?", re.IGNORECASE)
_ALONE = re.compile(rf"{_OPEN}(?P<said>1|2|tie){_CLOSE}\.?", re.IGNORECASE)


def messages(question: Question) -> Messages:
    """Chat messages for a pair: rules, worked examples as turns, and the question."""
    respect = CRITERIA.get(question.pole)
    told = question.instruction if respect is None else f"{question.instruction} {respect}"
    turns = [{"role": "system", "content": f"{RULES}\n\nThe respect: {told}"}]
    for one in EXAMPLES.get(question.pole, FORM):
        said = f"Thought: {one.thought}\nVerdict: {one.verdict}"
        turns.append(_pair(one.instruction, one.first, one.second))
        turns.append({"role": "assistant", "content": said})
    return [*turns, _pair(question.prompt, question.first, question.second)]


def single_messages(single: Single) -> Messages:
    """Chat messages for a single reply: rules, the poles' descriptions, and the reply."""
    poles = zip(single.poles, single.instructions, strict=True)
    told = [
        f"{number}: {instruction} {CRITERIA.get(pole, '')}".strip()
        for number, (pole, instruction) in enumerate(poles, 1)
    ]
    rules = f"{SINGLE_RULES}\n\n" + "\n".join(told)
    asked = _user({"Instruction": single.prompt, "Reply": single.text})
    return [{"role": "system", "content": rules}, asked]


def choice(answer: str | None, count: int) -> int | None:
    """Parse an answer about one reply: the pole's number, 0 for neither, None if unreadable."""
    found = _stated(answer, _CHOICE, _CHOSEN_ALONE)
    if found is None:
        return None
    number = int(found) if found.isdigit() else 0
    return number if number <= count else None


def _pair(instruction: str, first: str, second: str) -> dict[str, str]:
    return _user({"Instruction": instruction, "Reply 1": first, "Reply 2": second})


def _user(parts: Mapping[str, str]) -> dict[str, str]:
    text = "\n\n".join(f"{name}:\n{quoted(content)}" for name, content in parts.items())
    return {"role": "user", "content": text}


def quoted(text: str) -> str:
    """Quote untrusted text, with a bar at the start of every line."""
    if len(text) > MOST_CHARACTERS:
        text = text[:MOST_CHARACTERS] + " [cut here]"
    return "\n".join(f"| {line}" for line in (text.splitlines() or ["(empty)"]))


def verdict(answer: str | None) -> int | None:
    """Parse the verdict on a pair: 1, 0 or -1 from the first reply's view; None if unreadable.

    What a model thinks aloud before it answers is left out, and the last verdict that it states
    counts. An answer of nothing but a verdict needs no word before it. What could mean several
    things ("Verdict: 1 or 2") means none.
    """
    found = _stated(answer, _VERDICT, _ALONE)
    return None if found is None else _SAID.get(found.lower(), 0)


def _stated(answer: str | None, stated: re.Pattern[str], alone: re.Pattern[str]) -> str | None:
    """The last verdict of an answer after its thinking, or all that it says."""
    # One blank for a run of them: models fall into repeating spaces, whose every split is tried.
    blanks = _BLANKS.sub(lambda run: "\n" if "\n" in run.group() else " ", answer or "")
    text = _UNENDED.sub("", _THINKING.sub("", blanks[-MOST_READ:])).strip()
    *_, found = (alone.fullmatch(text), *stated.finditer(text))
    return found and found["said"]
