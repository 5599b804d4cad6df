"""Chat templates are programs: which of them surely end, and a bound on how long others may take.

Loops in loops, numbers to the power of numbers and texts that double take time or memory without
end, when a template is compiled or when it is filled.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache

import jinja2
from jinja2 import nodes

from mpd_core import apart

PATIENCE_S = 10.0
"""For a prompt, which takes milliseconds; when it is tried apart, of a processor."""
THREAD = "mpd-template"
TURNS = 5
TEXT = "Once upon a time. " * 20
TAME = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.CondExpr,
    nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Keyword,
    nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Test, nodes.Add,
    nodes.Sub, nodes.Neg, nodes.Mod, nodes.Concat, nodes.Filter, nodes.Call, nodes.List,
)  # fmt: skip
"""What a template is made of that ends: without variables of its own nothing grows."""
FILTERS = frozenset({"trim", "upper", "lower", "length", "first", "last", "string", "tojson"})
METHODS = frozenset({"strip", "lstrip", "rstrip", "startswith", "endswith", "split", "upper"})
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
    except (jinja2.TemplateError, RecursionError):
        return False
    return all(_is_tame(node) for node in _all(tree)) and not any(
        inner for loop in tree.find_all(nodes.For) for inner in loop.find_all(nodes.For)
    )


def _all(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _all(child)


def _is_tame(node: nodes.Node) -> bool:
    if isinstance(node, nodes.For):
        return not node.recursive and isinstance(node.iter, (nodes.Name, nodes.Getitem))
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
def ends(chat: str) -> bool:
    """Whether a template ends on some conversations, in bounded time and memory: tried apart."""
    turns = [{"role": ("user", "assistant")[k % 2], "content": TEXT} for k in range(TURNS)]
    conversations = [turns[:1], turns, [{"role": "system", "content": TEXT}, *turns]]
    names = {"bos_token": "<s>", "eos_token": "</s>", "tools": None, "documents": None}
    return apart.ends(_TRIAL, [chat, conversations, names, sys.path], PATIENCE_S)


class _StoppedError(BaseException):
    """Raised in a thread that has taken too long; templates catch no such thing."""


def within(seconds: float, call: Callable[[], str]) -> str:
    """What a call returns, if it does in time; it is broken off where not.

    Raises:
        TimeoutError: it does not.
        Exception: whatever it raises.
    """
    found: list[str] = []
    raised: list[Exception] = []

    def run() -> None:
        try:
            found.append(call())
        except Exception as error:
            raised.append(error)
        except _StoppedError:
            pass

    thread = threading.Thread(target=run, name=THREAD, daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if found:
        return found[0]
    stopped = ctypes.py_object(_StoppedError)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), stopped)
    raise TimeoutError(f"it takes longer than {seconds:g} seconds")
