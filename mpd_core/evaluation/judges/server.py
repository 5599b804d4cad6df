"""LLM judge on an OpenAI-compatible chat server, e.g. vLLM or a hosted API."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial
from typing import Any

from mpd_core.errors import MPDError
from mpd_core.evaluation.judges.asking import Messages, choice, messages, single_messages, verdict
from mpd_core.evaluation.judges.client import ServerOptions as ServerOptions
from mpd_core.evaluation.judges.client import client, failed, text, usage
from mpd_core.evaluation.judges.criteria import CRITERIA, EXAMPLES, RULES, SINGLE_RULES
from mpd_core.evaluation.judges.spending import Spending, estimate, tokens_of
from mpd_core.evaluation.judging import Answer, Asked, Judge, Question, Single
from mpd_core.evaluation.store import content_hash

Read = Callable[[str], int | None]
"""Parses an answer's text into a verdict."""

PREFIX = "server-"
READINGS = 3
"""Attempts at a question whose answers cannot be parsed."""
SEEDS = 1000


class ServerJudge(Judge):
    """Asks for a thought and a verdict, one dimension and one order at a time."""

    costs = reads_singles = True

    def __init__(
        self, options: ServerOptions, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        """Check that a client can be made; nothing is sent yet.

        Raises:
            MPDError: the package ``openai`` is not installed.
        """
        client(options).close()
        self._options, self._tell, self._announced = options, tell, False
        asked = [options.model, options.max_tokens, RULES, SINGLE_RULES]
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
        self._estimate([*map(messages, questions), *map(single_messages, singles)])
        self._announced = True

    def _estimate(self, turns: Iterable[Messages]) -> None:
        each = [(_tokens(one), self._options.max_tokens) for one in turns]
        said = estimate(each, self._options.limits)
        if not self._announced:
            self._tell(said)

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
        """Verdicts as they arrive, several questions in parallel.

        Raises:
            RequestError: it would cost more than is allowed; nothing has been asked.
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
        self._estimate(turns for _, turns, _ in asked)
        pooled = ThreadPoolExecutor(self._options.parallel)
        with client(self._options) as self._client, pooled as pool:
            waiting = {pool.submit(self._ask, turns, read): one for one, turns, read in asked}
            try:
                yield from _done(waiting)
            finally:
                for future in waiting:
                    future.cancel()

    def _ask(self, turns: Messages, read: Read) -> Answer:
        """Ask until the answer can be parsed, at most ``READINGS`` times."""
        said, found, used = "", None, (0, 0)
        for attempt in range(READINGS):
            said, more = self._say(turns, attempt)
            used = (used[0] + more[0], used[1] + more[1])
            if (found := read(said)) is not None:
                break
        facts = {"prompt_sha256": content_hash(turns, sort_keys=False)}
        return Answer(found, said, {**facts, "tokens_in": used[0], "tokens_out": used[1]})

    def _say(self, turns: Messages, attempt: int) -> tuple[str, tuple[int, int]]:
        most = (_tokens(turns), self._options.max_tokens)
        self.spending.reserve(most)
        used = (0, 0)
        try:
            answer = self._answer(turns, attempt)
            said = text(answer)
            used = usage(answer) or (most[0], tokens_of([said]))
        except (ValueError, AttributeError, TypeError, KeyError, IndexError) as error:
            used = most  # it answered, with what is no chat completion: paid, perhaps
            return f"(no chat completion: {type(error).__name__})", used
        finally:
            self.spending.settle(most, used)
        return said, used

    def _answer(self, turns: Messages, attempt: int) -> Any:
        """What the server says, or ``EngineError``; in a thread, since a client's own limits are
        of a single read."""
        import openai

        came: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answer = self._client.chat.completions.create(
                    model=self._options.model,
                    messages=turns,
                    max_tokens=self._options.max_tokens,
                    temperature=0.0 if attempt == 0 else 0.7,  # the same would be as unreadable
                    seed=SEEDS + attempt,
                )
            except Exception as error:  # raised where it is waited for
                answer = error
            came.put(answer)

        threading.Thread(target=ask, daemon=True).start()
        try:
            answer = came.get(timeout=self._options.total_s)
        except queue.Empty:
            late = TimeoutError(f"no whole answer within {self._options.total_s:g} s")
            raise failed(self._options, late) from None
        if isinstance(answer, openai.OpenAIError):
            raise failed(self._options, answer) from answer
        if isinstance(answer, Exception):
            raise answer
        return answer


def _done(waiting: dict[Future[Answer], Asked]) -> Iterator[tuple[Asked, Answer]]:
    """Yield finished answers before raising a failure, so that they are stored."""
    failure: MPDError | None = None
    for future in as_completed(waiting):
        if future.cancelled():
            continue
        try:
            answer = future.result()
        except MPDError as error:
            failure = failure or error
            for other in waiting:
                other.cancel()
            continue
        yield waiting[future], answer
    if failure:
        raise failure


def _tokens(turns: Messages) -> int:
    return tokens_of(turn["content"] for turn in turns)
