"""Chat templates are programs: which of them surely end, and a bound on how long others may take.

Loops in loops, numbers to the power of numbers and texts that double take time or memory without
end, when a template is compiled or when it is filled.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache

import jinja2
from jinja2 import nodes

from mpd_core import apart
from mpd_core.errors import PackError

PATIENCE_S = 10.0
"""Seconds of processor time allowed for a prompt; good templates take milliseconds."""
_LOOK_S = 0.05
"""Seconds between two looks at a thread's time, at least."""
THREAD = "mpd-template"
TURNS = 5
TEXT = "Once upon a time. " * 20
TAME = (
    nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.CondExpr,
    nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Keyword,
    nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Test, nodes.Add,
    nodes.Sub, nodes.Neg, nodes.Mod, nodes.Concat, nodes.Filter, nodes.Call,
)  # fmt: skip
"""What a template is made of that ends: without variables and lists of its own nothing grows.

The text of a list is longer than its texts, so that lists of texts of lists grow step by step.
"""
FILTERS = frozenset({"trim", "upper", "lower", "length", "first", "last"})
METHODS = frozenset({"strip", "lstrip", "rstrip", "startswith", "endswith", "upper"})
METHODS |= {"lower", "title"}
_TRIAL = """
import json, re, sys
chat, conversations, names, sys.path[:] = json.load(sys.stdin)
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
chat = re.sub(r"{%-?\\s*(end)?generation\\s*-?%}", "", chat)
def refuse(message):
    raise TemplateError(message)
made = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
)
made.globals.update(raise_exception=refuse, strftime_now=lambda form: form)
try:
    template = made.from_string(chat)
except MemoryError:
    raise
except Exception:
    sys.exit()
for messages in conversations:
    try:
        template.render(messages=messages, add_generation_prompt=True, **names)
    except MemoryError:
        raise
    except Exception:
        pass
"""


@lru_cache(maxsize=16)
def is_tame(chat: str) -> bool:
    """Whether it is plain to see that a template ends: no loop in another, nothing that grows."""
    try:
        tree = jinja2.Environment().parse(chat)
        return all(map(_is_tame, tree.find_all(nodes.Node))) and not any(
            inner for loop in tree.find_all(nodes.For) for inner in loop.find_all(nodes.For)
        )
    except (jinja2.TemplateError, RecursionError):
        return False


def _is_tame(node: nodes.Node) -> bool:
    if isinstance(node, nodes.For):
        part = isinstance(node.iter, nodes.Getitem) and isinstance(node.iter.arg, nodes.Slice)
        turns = node.iter.node if part else node.iter  # type: ignore[attr-defined]
        return not node.recursive and getattr(turns, "name", "") == "messages"
    if isinstance(node, nodes.Filter):
        return node.name in FILTERS
    if isinstance(node, nodes.Call):
        called = node.node
        name = getattr(called, "name", "") if isinstance(called, nodes.Name) else ""
        return name == "raise_exception" or getattr(called, "attr", "") in METHODS
    if isinstance(node, nodes.Mod):  # of a turn's number: a text on its left would be filled in
        turn = getattr(node.left, "node", None)
        return isinstance(turn, nodes.Name) and turn.name == "loop"
    return isinstance(node, TAME)


@lru_cache(maxsize=16)
def check(chat: str) -> None:
    """Try a template on some conversations, in a process of its own.

    Raises:
        PackError: it was seen to take too much time or memory, maybe only this time.
    """
    turns = [{"role": ("user", "assistant")[k % 2], "content": TEXT} for k in range(TURNS)]
    conversations = [turns[:1], turns, [{"role": "system", "content": TEXT}, *turns]]
    names = {"bos_token": "<s>", "eos_token": "</s>", "tools": None, "documents": None}
    path = [entry for entry in sys.path if isinstance(entry, str)]
    if not apart.ends(_TRIAL, [chat, conversations, names, path], PATIENCE_S):
        raise PackError(
            "template.chat: the chat template takes time or memory without an end; correct it, or "
            "write another one in pack.toml."
        )


class _StoppedError(BaseException):
    """Raised in a thread that has taken too long; templates catch no such thing."""


def within(seconds: float, call: Callable[[], str]) -> str:
    """What a call returns, if it does in so much processor time; it is broken off where not.

    Where a system does not tell the time of a thread, or it stands still, the clock counts.

    Raises:
        TimeoutError: it does not.
        BaseException: whatever it raises.
    """
    found: list[str] = []
    raised: list[BaseException] = []
    clocks: list[int] = []

    def run() -> None:
        try:
            if hasattr(time, "pthread_getcpuclockid"):  # in the thread: of an ended one it crashes
                clocks.append(time.pthread_getcpuclockid(threading.get_ident()))
            found.append(call())
        except _StoppedError:
            pass
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name=THREAD, daemon=True)
    thread.start()
    _join(thread, seconds, clocks)
    if thread.is_alive():
        stopped = ctypes.py_object(_StoppedError)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), stopped)
        raise TimeoutError(f"it takes longer than {seconds:g} seconds")
    if raised:
        raise raised[0]
    return found[0]


def _join(thread: threading.Thread, seconds: float, clocks: list[int]) -> None:
    """Wait until a thread has ended, or worked for so long by its clock, if there is one."""
    last = time.monotonic() + apart.BUSY * seconds
    thread.join(seconds)
    if not hasattr(time, "pthread_getcpuclockid"):
        return
    with suppress(OSError):  # the thread has ended, and its clock with it
        while thread.is_alive() and time.monotonic() < last:
            left = seconds - (time.clock_gettime(clocks[0]) if clocks else 0.0)
            if left <= 0.0:
                break
            thread.join(max(left, _LOOK_S))
