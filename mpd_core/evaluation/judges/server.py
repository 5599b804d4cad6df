"""LLM judge on an OpenAI-compatible chat server, e.g. vLLM or a hosted API."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mpd_core.errors import EngineError, MPDError, RequestError
from mpd_core.evaluation.judges.asking import (
    CRITERIA,
    EXAMPLES,
    RULES,
    SINGLE_RULES,
    Messages,
    choice,
    messages,
    single_messages,
    verdict,
)
from mpd_core.evaluation.judges.spending import Limits, Spending, Tokens, added, tokens_of
from mpd_core.evaluation.judging import Answer, Asked, Judge, Question, Single
from mpd_core.remote.client import Client
from mpd_core.saving import content_hash

Read = Callable[[str], int | None]
"""Parses an answer's text into a verdict."""

PREFIX = "server-"
READINGS = 3
"""Attempts at a question whose answers cannot be parsed."""
SEEDS = 1000
MOST_TOKENS = 400
"""Limit of an answer in tokens, reasoning included."""
MOST_KEPT = 20_000
"""Characters of an answer that are stored."""


@dataclass(frozen=True)
class ServerOptions:
    """Which model judges, and how it is asked."""

    url: str
    model: str
    key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable with the key; a server without keys needs none."""
    limits: Limits = field(default_factory=Limits)
    parallel: int = 8
    timeout_s: float = 60.0
    """Of one attempt, from connecting to the last byte."""
    retries: int = 4
    """After failures of the connection, busy servers and refusals that may pass."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise RequestError(f"--url {self.url[:200]}: give an address such as http://host/v1.")
        if not self.model.strip():
            raise RequestError("--model: name the model that the server is to judge with.")
        if not 1 <= self.parallel <= 256:
            raise RequestError("--parallel: from 1 to 256.")

    def client(self) -> Client:
        """Of the server's chat completions."""
        return Client(
            self.url.rstrip("/") + "/chat/completions",
            lambda _, reason: EngineError(
                f"The judge at {self.url} {reason}. Verdicts so far are stored: judge again to go "
                "on."
            ),
            timeout_s=self.timeout_s,
            retries=self.retries,
            key_env=self.key_env if os.environ.get(self.key_env) else None,
        )


class ServerJudge(Judge):
    """Asks for a thought and a verdict, one dimension and one order at a time."""

    costs = reads_singles = True

    def __init__(
        self, options: ServerOptions, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        """Check that a client can be made; nothing is sent yet.

        Raises:
            EngineError: see ``Client``.
        """
        options.client().close()
        self._options, self._tell = options, tell
        asked = [options.model, MOST_TOKENS, RULES, SINGLE_RULES]
        asked += [dict(CRITERIA), repr(dict(EXAMPLES))]
        version = f"{options.model[:80]} {content_hash(asked, sort_keys=False)[:12]}"
        name = re.sub(r"[^\w.]+", "-", options.model).strip("-")[:80]
        super().__init__(f"{PREFIX}{name}", version)
        self.spending = Spending(options.limits)

    def announce(self, questions: Sequence[Question], singles: Sequence[Single]) -> None:
        """Tell what all of this will cost, before any of it is asked.

        Raises:
            RequestError: more than is allowed.
        """
        turns = [*map(messages, questions), *map(single_messages, singles)]
        self._tell(self._options.limits.estimate([_most(one) for one in turns]))

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
        """Verdicts as they arrive, several questions in parallel.

        Raises:
            MPDError: the cap is reached; what was asked until then has been given.
            EngineError: the server fails, and goes on failing.
        """
        return self._all([(question, messages(question), verdict) for question in questions])

    def singles(self, asked: Sequence[Single]) -> Iterator[tuple[Single, Answer]]:
        """The same about single replies; errors as ``answers``."""
        return self._all(
            [(s, single_messages(s), partial(choice, count=len(s.poles))) for s in asked]
        )

    def _all(self, asked: Sequence[tuple[Asked, Messages, Read]]) -> Iterator[tuple[Asked, Answer]]:
        """Answers as they come; a failure is raised after those that others gave meanwhile."""
        pooled, failure = ThreadPoolExecutor(self._options.parallel), None
        with pooled as pool, closing(self._options.client()) as self._client:
            waiting = {pool.submit(self._ask, turns, read): one for one, turns, read in asked}
            try:
                for future in as_completed(waiting):
                    if future.cancelled():
                        continue
                    try:
                        answer = future.result()
                    except MPDError as error:
                        failure = failure or error
                        _cancel(waiting)
                    else:
                        yield waiting[future], answer
            finally:
                _cancel(waiting)
        if failure:
            raise failure

    def _ask(self, turns: Messages, read: Read) -> Answer:
        """Ask until the answer can be parsed, at most ``READINGS`` times."""
        most = _most(turns)
        said, found, spent = "", None, (0, 0)
        for attempt in range(READINGS):
            self.spending.reserve(most)
            used = (0, 0)
            try:
                answer = json.loads(self._answer(turns, attempt))
                said = _text(answer)
                used = _usage(answer) or (most[0], tokens_of([said]))
            except (ValueError, RecursionError, TypeError, LookupError) as error:
                said = f"(no chat completion: {type(error).__name__})"
                used = most  # it answered, with what is no chat completion: paid, perhaps
            finally:
                self.spending.settle(most, used)
            spent = added(spent, used)
            if (found := read(said)) is not None:
                break
        facts = {"prompt_sha256": content_hash(turns, sort_keys=False)}
        return Answer(found, said, {**facts, "tokens_in": spent[0], "tokens_out": spent[1]})

    def _answer(self, turns: Messages, attempt: int) -> bytes:
        body = {
            "model": self._options.model,
            "messages": turns,
            "max_tokens": MOST_TOKENS,
            "temperature": 0.0 if attempt == 0 else 0.7,  # the same would be as unreadable
            "seed": SEEDS + attempt,
        }
        return self._client.post(json.dumps(body).encode(), bytes)


def _cancel(waiting: Iterable[Future[Answer]]) -> None:
    for future in waiting:  # not by the pool's shutdown, of which as_completed would not hear
        future.cancel()


def _text(answer: Any) -> str:
    """Text of a chat completion, of a very long one the end; empty if there is none."""
    content = answer["choices"][0]["message"]["content"]
    if content is not None and not isinstance(content, str):
        raise TypeError("content is no text")
    # A file of UTF-8 holds no half of a surrogate pair, which JSON can spell.
    return (content or "").encode("utf-8", "replace").decode("utf-8")[-MOST_KEPT:]


def _usage(answer: Any) -> Tokens | None:
    """Token usage reported by the server; None if missing or implausible."""
    usage = answer.get("usage")
    told = usage if isinstance(usage, dict) else {}
    found: list[Any] = [told.get(f"{name}_tokens") for name in ("prompt", "completion")]
    return (found[0], found[1]) if all(type(n) is int and n >= 0 for n in found) else None


def _most(turns: Messages) -> Tokens:
    """What a question costs at most."""
    return tokens_of(turn["content"] for turn in turns), MOST_TOKENS
