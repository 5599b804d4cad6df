"""Read and validate traces from files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Set
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from mpd_core.errors import MPDError, about
from mpd_core.request import MAX_NEW_TOKENS
from mpd_core.trace import SCHEMA_VERSION, Candidate, StepRecord, Trace

MAX_FILE_BYTES = 128 * 2**20
MAX_EXPERTS = 64
MAX_CANDIDATES = MAX_EXPERTS * 51
_SLACK = 1e-3
"""Of weights' sum and of bounds: numbers of the page have seven digits."""
_ADAPTER: TypeAdapter[Trace] = TypeAdapter(Trace)


class TraceError(MPDError):
    """A file is not a trace that this version can read."""


def read_trace(path: Path) -> Trace:
    """A trace from a file, as the command line (``generate --json``) and the page write it.

    Raises:
        TraceError: names the file and what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)  # no more: a device has no size, and no end
        if len(raw) > MAX_FILE_BYTES:
            most = MAX_FILE_BYTES // 2**20
            raise TraceError(f"{path}: is larger than a trace; at most {most} MB are read.")
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: is no UTF-8 text: export the reply again.") from error
    return trace_from_json(text, str(path))


def trace_from_json(text: str, name: str) -> Trace:
    """A trace from its JSON, as ``Trace.to_json`` writes it; ``name`` is what messages call it.

    Raises:
        TraceError: no JSON, another schema, or a field that is missing, unknown or out of bounds.
    """
    with about(name):
        try:
            data = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise TraceError("is no JSON, or was cut short: export the reply again.") from None
        _check_size(data)
        for step in data["steps"]:
            listed = step.get("top_k")
            for one in (step, *(listed if isinstance(listed, list) else ())):
                logprobs = one.get("logprobs") if isinstance(one, dict) else None
                if isinstance(logprobs, dict):  # null is a log-probability of minus infinity
                    one["logprobs"] = {
                        k: -math.inf if v is None else v for k, v in logprobs.items()
                    }
        try:
            trace = _ADAPTER.validate_python(data, strict=False)
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(str(part) for part in problem["loc"])
            raise TraceError(f"{key[:120]}: {problem['msg'][:120]}.") from None
        _check(trace)
        return trace


def trace_from_dict(data: Mapping[str, Any], name: str = "The trace") -> Trace:
    """The inverse of ``Trace.to_dict``; errors as ``trace_from_json``."""
    return trace_from_json(json.dumps(data), name)


def _no_constant(word: str) -> NoReturn:
    raise TraceError(f"{word} is no JSON.")


def _check_size(data: Any) -> None:
    """What is checked of plain values, before any of them is read as a trace's."""
    if not isinstance(data, dict) or "schema_version" not in data:
        raise TraceError("is no trace: it has no schema_version.")
    if (version := data["schema_version"]) != SCHEMA_VERSION:
        raise TraceError(
            f"has schema {version!r:.20}; this version reads {SCHEMA_VERSION}: write the reply "
            "again with it."
        )
    steps = data.get("steps")
    if not isinstance(steps, list):
        raise TraceError("has no steps.")
    if len(steps) > MAX_NEW_TOKENS:
        raise TraceError(f"has {len(steps)} steps; at most {MAX_NEW_TOKENS} are read.")
    if not all(isinstance(step, dict) for step in steps):
        raise TraceError("has a step that is no object.")
    known, step_known = ({field.name for field in fields(k)} for k in (Trace, StepRecord))
    if unknown := (data.keys() - known).union(*(step.keys() - step_known for step in steps)):
        raise TraceError(
            f"has a field that schema {SCHEMA_VERSION} does not know: {min(unknown)!r:.60}."
        )


def _check(trace: Trace) -> None:
    """Checks beyond types: ranges, sums and lengths."""
    if "".join(step.text for step in trace.steps) != trace.text:
        raise TraceError("its steps do not join to its text.")
    experts: Set[str] = trace.steps[0].weights.keys() if trace.steps else frozenset[str]()
    if len(experts) > MAX_EXPERTS:
        raise TraceError(f"has {len(experts)} experts; at most {MAX_EXPERTS} are read.")
    for place, step in enumerate(trace.steps):
        if step.index != trace.steps[0].index + place or not 0 <= step.index < MAX_NEW_TOKENS:
            raise TraceError(f"step {place + 1} has the index {step.index!s:.20}, out of turn.")
        if problem := _problem(step, experts):
            raise TraceError(f"step {place + 1} {problem}.")


def _problem(step: StepRecord, experts: Set[str]) -> str:
    if step.weights.keys() != experts or not experts <= step.logprobs.keys():
        return "has other experts than the first"
    weights = step.weights.values()
    if not all(0.0 <= w <= 1.0 + _SLACK for w in weights) or abs(sum(weights) - 1.0) > _SLACK:
        return "has weights that are no shares of 1"
    said: tuple[StepRecord | Candidate, ...] = (step, *step.top_k)
    shares = (*(one.probability for one in said), *step.missing.values())
    if not all(0.0 <= share <= 1.0 + _SLACK for share in shares):
        return "has no proper probability"
    if not all(p <= _SLACK for one in said for p in one.logprobs.values()):
        return "has a log-probability above 0"
    if not all(-_SLACK <= v < math.inf for v in (step.entropy, step.disagreement, step.divergence)):
        return "has an entropy or divergence that is none"
    if len(step.top_k) > MAX_CANDIDATES:
        return f"has {len(step.top_k)} candidates; at most {MAX_CANDIDATES} are read"
    return ""
