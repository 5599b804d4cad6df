"""LLM judge on an OpenAI-compatible chat server, e.g. vLLM or a hosted API."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from mpd_core.saving import content_hash

Read = Callable[[str], int | None]
"""Parses an answer's text into a verdict."""

PREFIX = "server-"
READINGS = 3
"""Attempts at a question whose answers cannot be parsed."""
SEEDS = 1000
MOST_KEPT = 20_000
"""Characters of an answer that are stored."""
MOST_TOKENS = 400
"""Limit of an answer in tokens, reasoning included."""


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
    retries: int = 4
    """After failures of the connection, busy servers and refusals that may pass."""
    total_s: float = 300.0
    """Of an answer with its retries: a server that sends a byte now and then never times out."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise RequestError(f"--url {self.url[:200]}: give an address such as http://host/v1.")
        if not self.model.strip():
            raise RequestError("--model: name the model that the server is to judge with.")
        if not 1 <= self.parallel <= 256:
            raise RequestError("--parallel: from 1 to 256.")


class ServerJudge(Judge):
    """Asks for a thought and a verdict, one dimension and one order at a time."""

    costs = reads_singles = True

    def __init__(
        self, options: ServerOptions, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        """Nothing is sent yet.

        Raises:
            MPDError: the package ``openai`` is not installed.
        """
        try:
            import openai
        except ImportError as error:
            raise MPDError(
                "Judging by a server needs the package 'openai': pip install -e '.[evaluation]'."
            ) from error
        self._openai, self._options, self._tell = openai, options, tell
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
        client: Any = self._openai.AsyncOpenAI(
            base_url=self._options.url,
            api_key=os.environ.get(self._options.key_env) or "none",
            timeout=self._options.timeout_s,
            max_retries=self._options.retries,
        )
        failures: list[MPDError] = []
        turn = asyncio.Semaphore(self._options.parallel)

        async def answered(turns: Messages, read: Read) -> Answer | None:
            async with turn:
                try:
                    return None if failures else await self._ask(client, turns, read)
                except MPDError as error:
                    failures.append(error)
                    return None

        with closing(asyncio.new_event_loop()) as loop:
            tasks = {loop.create_task(answered(turns, read)): one for one, turns, read in asked}
            left = set(tasks)
            try:
                while left:
                    some = asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                    done, left = loop.run_until_complete(some)
                    for task in done:
                        if answer := task.result():
                            yield tasks[task], answer
            finally:
                loop.run_until_complete(_end(client, left))
        if failures:
            raise failures[0]

    async def _ask(self, client: Any, turns: Messages, read: Read) -> Answer:
        """Ask until the answer can be parsed, at most ``READINGS`` times."""
        most = _most(turns)
        said, found, spent = "", None, (0, 0)
        for attempt in range(READINGS):
            self.spending.reserve(most)
            used = (0, 0)
            try:
                answer = await self._answer(client, turns, attempt)
                said = _text(answer)
                used = _usage(answer) or (most[0], tokens_of([said]))
            except (ValueError, AttributeError, TypeError, KeyError, IndexError) as error:
                said = f"(no chat completion: {type(error).__name__})"
                used = most  # it answered, with what is no chat completion: paid, perhaps
            finally:
                self.spending.settle(most, used)
            spent = added(spent, used)
            if (found := read(said)) is not None:
                break
        facts = {"prompt_sha256": content_hash(turns, sort_keys=False)}
        return Answer(found, said, {**facts, "tokens_in": spent[0], "tokens_out": spent[1]})

    async def _answer(self, client: Any, turns: Messages, attempt: int) -> Any:
        """What the server says, or ``EngineError``; the client's own limits are of one read."""
        asked = client.chat.completions.create(
            model=self._options.model,
            messages=turns,
            max_tokens=MOST_TOKENS,
            temperature=0.0 if attempt == 0 else 0.7,  # the same would be as unreadable
            seed=SEEDS + attempt,
        )
        try:
            return await asyncio.wait_for(asked, self._options.total_s)
        except asyncio.TimeoutError:
            reason = f"no whole answer within {self._options.total_s:g} s"
        except self._openai.OpenAIError as error:
            reason = str(error) or type(error).__name__
        raise EngineError(
            f"The judge at {self._options.url} failed: {' '.join(reason.split())[:200].rstrip('.')}"
            ": verdicts so far are stored; check it and judge again to go on."
        )


async def _end(client: Any, left: Iterable[asyncio.Task[Any]]) -> None:
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await client.close()


def _text(answer: Any) -> str:
    """Text of a chat completion, of a very long one the end; empty if there is none."""
    content = answer.choices[0].message.content
    if content is not None and not isinstance(content, str):
        raise TypeError("content is no text")
    # A file of UTF-8 holds no half of a surrogate pair, which JSON can spell.
    return (content or "").encode("utf-8", "replace").decode("utf-8")[-MOST_KEPT:]


def _usage(answer: Any) -> Tokens | None:
    """Token usage reported by the server; None if missing or implausible."""
    usage = getattr(answer, "usage", None)
    found: list[Any] = [getattr(usage, f"{name}_tokens", None) for name in ("prompt", "completion")]
    return (found[0], found[1]) if all(type(n) is int and n >= 0 for n in found) else None


def _most(turns: Messages) -> Tokens:
    """What a question costs at most."""
    return tokens_of(turn["content"] for turn in turns), MOST_TOKENS
