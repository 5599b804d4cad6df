"""From what a page sends to requests: nothing in it is trusted."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import Any

from mpd_core.engine.plan import ONE_EXPERT
from mpd_core.errors import RequestError
from mpd_core.packs import Pack
from mpd_core.request import (
    MAX_CHARACTERS,
    MAX_MESSAGES,
    NUMBERS,
    Branch,
    GenerationRequest,
    Message,
)
from mpd_core.ui.runs import Run

MAX_RUNS = 16
"""Replies that one press of a button may ask for."""
MAX_BYTES = MAX_RUNS * (4 * MAX_CHARACTERS + 150_000)
_SETTINGS = frozenset({"method", "space", *NUMBERS})
_BRANCH = frozenset(field.name for field in fields(Branch))


def uses_preference(method: str) -> bool:
    """Whether a method looks at the toggles."""
    return method != "vanilla" and not method.startswith(ONE_EXPERT)


def names(text: object) -> list[str]:
    """Ids of runs, as a page sends them to stop or to fetch replies.

    Raises:
        RequestError: this is no list of ids.
    """
    listed = _loads(text)
    if not isinstance(listed, list) or len(listed) > MAX_RUNS * MAX_MESSAGES:
        raise RequestError("The page sent something that is no list of replies: reload it.")
    return [_name(one) for one in listed]


def runs(text: object, pack: Pack) -> list[Run]:
    """The replies that a page asks for: ``[{id, messages, preference, settings, branch}, ...]``.

    A request that breaks a rule comes as a run that is refused already, so that its neighbours
    are not lost with it.

    Raises:
        RequestError: the message as a whole cannot be read.
    """
    asked = _loads(text)
    if not isinstance(asked, list) or not 1 <= len(asked) <= MAX_RUNS:
        raise RequestError(f"The page must ask for 1 to {MAX_RUNS} replies: reload it.")
    return [_run(one, pack) for one in asked]


def _run(one: object, pack: Pack) -> Run:
    if not isinstance(one, dict):
        raise RequestError("The page sent a reply that is no object: reload it.")
    name = _name(one.get("id"))
    try:
        return Run(name, request(one, pack))
    except RequestError as error:
        refused = Run(name, GenerationRequest((Message("user", "-"),), ""))
        refused.close("refused", str(error))
        return refused


def request(one: dict[str, Any], pack: Pack) -> GenerationRequest:
    """One reply that is asked for.

    Raises:
        RequestError: a value out of bounds, or a field left empty.
    """
    settings = one.get("settings")
    if not isinstance(settings, dict) or not settings.keys() <= _SETTINGS:
        raise RequestError("The page sent settings that are unknown here: reload it.")
    preference, method = one.get("preference", ""), settings.get("method", "mpd")
    if not isinstance(preference, str) or not isinstance(method, str):
        raise RequestError("The page sent a preference or method that is no text: reload it.")
    if not pack.space.parse(preference).poles and uses_preference(method):
        raise RequestError(
            "All toggles are off: choose at least one, or the method “Vanilla prompting” under "
            "Advanced settings, which needs none."
        )
    given = {name: settings[name] for name in NUMBERS if name in settings}
    for name, value in given.items():
        number = NUMBERS[name]
        if value is None:
            raise RequestError(f"{number.label} is empty: give {number.wanted}.")
        if number.whole:
            given[name] = whole(number.label, value)
    # A strength that was left at the pack's own follows the number of chosen poles.
    if given.get("strength") == pack.spec.decode.strength:
        del given["strength"]
    return pack.request(
        _messages(one.get("messages")),
        preference,
        method,
        space=settings.get("space"),
        branch=branch(one.get("branch")),
        **given,
    )


def branch(given: object) -> Branch | None:
    """Where a reply leaves another one, from JSON: an object like ``request.Branch``.

    Raises:
        RequestError: an unknown field, or a value out of bounds.
    """
    if given is None:
        return None
    if not isinstance(given, dict) or not given.keys() <= _BRANCH:
        raise RequestError(f"branch: give an object with {', '.join(sorted(_BRANCH))}.")
    checked: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    return Branch(**checked)


def _messages(listed: object) -> tuple[Message, ...]:
    if not isinstance(listed, list) or len(listed) > MAX_MESSAGES:
        raise RequestError(f"More than {MAX_MESSAGES} turns: start a new conversation.")
    messages = []
    for one in listed:
        if not isinstance(one, dict):
            raise RequestError("The page sent a turn that is no object: reload it.")
        messages.append(Message(one.get("role"), one.get("content")))  # type: ignore[arg-type]
    return tuple(messages)


def whole(label: str, value: object) -> int:
    """A number of the page as an integer.

    Raises:
        RequestError: it is empty, not a number, or has a fraction.
    """
    try:
        number = float(value)  # type: ignore[arg-type]
        if number == int(number) and not isinstance(value, bool):
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise RequestError(f"{label} is {value!r:.60}: give a whole number.")


def _name(one: object) -> str:
    if isinstance(one, str) and re.fullmatch("[0-9a-f]{32}", one):
        return one
    raise RequestError("The page sent a reply without a proper id: reload it.")


def _loads(text: object) -> Any:
    if not isinstance(text, str) or len(text) > MAX_BYTES:
        raise RequestError("The page sent too much at once: start a new conversation.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RequestError("The page sent something unreadable: reload it.") from None
