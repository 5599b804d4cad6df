"""``/generate`` without a server: its parameters, what it makes of odd values, and short calls."""

from __future__ import annotations

import inspect
import json
import keyword
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from mpd_core.packs import load_pack
from mpd_core.request import GenerationRequest, Sampling
from mpd_core.ui import zerogpu
from mpd_core.ui.api import generate_function
from tests import tiny
from tests.browser.scripted import ScriptedEngine
from tests.fresh_python import in_python
from tests.patience import PATIENCE

Endpoint = Callable[..., Any]


@pytest.fixture(scope="module")
def engine(tiny_pack_dir: Path) -> ScriptedEngine:
    return ScriptedEngine(load_pack(tiny_pack_dir), pause=0.0)


@pytest.fixture(scope="module")
def endpoint(engine: ScriptedEngine) -> Endpoint:
    return made(engine)


def made(engine: ScriptedEngine) -> Endpoint:
    return generate_function(engine, zerogpu.producer(engine))  # type: ignore[arg-type]


def asked(
    engine: ScriptedEngine, endpoint: Endpoint, *given: Any, **named: Any
) -> GenerationRequest:
    """The request that a call comes to."""
    list(endpoint(*given, **named))
    return engine.streams[-1].request


def test_every_setting_of_a_request_can_be_given(
    engine: ScriptedEngine, endpoint: Endpoint
) -> None:
    settings = {
        "max_new_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.75,
        "repetition_penalty": 1.25,
        "dry_multiplier": 0.5,
        "seed": 3,
    }
    assert {field.name for field in fields(Sampling)} >= settings.keys()
    request = asked(engine, endpoint, "Hi", "up0", space="logit", **settings)
    assert request.sampling == Sampling(**settings)  # type: ignore[arg-type]
    assert (request.space, request.preference, request.method) == ("logit", "A--", "mpd")


def test_what_programs_gave_by_position_stays_in_its_place(
    engine: ScriptedEngine, endpoint: Endpoint
) -> None:
    request = asked(engine, endpoint, "Hi", "up0", "", "down2", "uniform", 4, 1.0, 0.5, 9)
    expected = Sampling(max_new_tokens=4, temperature=1.0, top_p=0.5, seed=9)
    assert (request.preference, request.method, request.sampling) == ("A-B", "uniform", expected)


def test_what_is_null_is_the_packs_own(engine: ScriptedEngine, endpoint: Endpoint) -> None:
    names = [field.name for field in fields(Sampling)]
    nothing = dict.fromkeys([*names, "method", "space", "dim1"])
    request = asked(engine, endpoint, "Hi", "up0", **nothing)
    assert request.sampling == engine.pack.spec.decode.sampling()
    assert (request.space, request.preference, request.method) == ("probability", "A--", "mpd")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"instruction": None}, "content must be text"),
        ({"instruction": ["a"]}, "content must be text"),
        ({"instruction": "\ud83d"}, "half a surrogate pair"),
        ({"instruction": "a" * 100_001}, "over 100,000 characters"),
        ({"dim0": ["up0"]}, "is no pole of dimension 'dim0': use up0, down0"),
        ({"dim0": 0}, "'0' is no pole"),
        ({"dim0": "x" * 5000}, "is no pole"),
        ({"dim0": ""}, "choose at least one pole"),
        ({"method": 5}, "method is 5: give a name"),
        ({"method": ["mpd"] * 900}, "give a name"),
        ({"space": {"a": 1}}, "give a name"),
        ({"space": "astral" * 900}, "Unknown space"),
        ({"seed": "9" * 5000}, "seed is '999"),
        ({"method": "\ud83d"}, r"Unknown method '\ud83d'"),
        ({"dim0": "\ud83d"}, r"'\ud83d' is no pole"),
        ({"max_new_tokens": True}, "max_new_tokens is True: give a whole number"),
        ({"max_new_tokens": 1.5}, "max_new_tokens is 1.5"),
        ({"max_new_tokens": []}, "max_new_tokens is []"),
        ({"temperature": "0.5"}, "temperature is '0.5': give a number"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 10**400}, "temperature is 1"),
        ({"seed": 2**40}, "seed is 1099511627776"),
        ({"dry_multiplier": -1}, "dry_multiplier is -1"),
    ],
)
def test_odd_values_are_answered_in_one_short_sentence(
    endpoint: Endpoint, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(gr.Error) as caught:
        list(endpoint(**{"instruction": "Hi", "dim0": "up0", **given}))
    said = str(caught.value.message)
    assert message in said
    assert said.encode("utf-8")  # or it could not be sent
    assert "\n" not in said
    assert len(said) < 600


def test_a_client_that_leaves_the_queue_is_no_longer_in_it(
    engine: ScriptedEngine, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpd_core.ui.handlers.SILENT_SECONDS", 0.05)
    waiting = endpoint("never behind 3", "up0")
    assert next(waiting) == {"text": "", "steps": 0, "done": False}
    assert not engine.streams[-1].ended.is_set()
    waiting.close()
    assert engine.streams[-1].reason == "cancelled"
    assert engine.streams[-1].left.wait(PATIENCE)


NAMES = ("seed", "temperature", "space", "method", "instruction", "class", "from", "lambda")


@pytest.mark.parametrize("name", [*NAMES, "api_name", "self", "headers", "type", "strength"])
def test_a_dimension_may_have_any_name(tiny_base: Path, tmp_path: Path, name: str) -> None:
    file = tiny.write_pack(tmp_path, tiny_base, dimensions=2) / "pack.toml"
    text = file.read_text("utf-8").replace('name = "dim0"', f'name = "{name}"')
    file.write_text(text.replace('name = "dim1"', 'name = "seed_"'), encoding="utf-8")
    engine = ScriptedEngine(load_pack(tmp_path), pause=0.0)
    endpoint = made(engine)
    names = [*inspect.signature(endpoint).parameters]
    assert not any(map(keyword.iskeyword, names))
    assert names[1].rstrip("_") == name
    assert f"{names[1]}: up0, down0; {names[2]}: up1, down1" in str(endpoint.__doc__)
    assert asked(engine, endpoint, "Hi", **{names[1]: "down0"}, seed=5).preference == "B-"
    assert engine.streams[-1].request.sampling.seed == 5


def test_a_program_chooses_how_experts_are_merged(
    engine: ScriptedEngine, endpoint: Endpoint
) -> None:
    """Given values are used as they are; what is null is the pack's own way."""
    chosen = {"space": "strength", "strength": 1.5, "settled": 0.6, "plausibility": 0.2}
    request = asked(engine, endpoint, "Hi", dim0="up0", **chosen)
    assert chosen.items() <= asdict(request).items()
    decode = engine.pack.spec.decode
    request = asked(engine, endpoint, "Hi", dim0="up0", dim1="up1", dim2="up2", space=None)
    assert (request.space, request.strength) == (decode.space, decode.strength)


SHORT = """
import asyncio, json
import gradio as gr
from mpd_core.packs import load_pack
from mpd_core.ui import zerogpu
from mpd_core.ui.api import Page, generate_function
from tests.browser.scripted import ScriptedEngine
engine = ScriptedEngine(load_pack())
with Page(analytics_enabled=False) as page:
    gr.api(generate_function(engine, zerogpu.producer(engine)), api_name="generate")
(function,) = page.fns.values()
calls = [asyncio.run(page.preprocess_data(function, data, None)) for data in (["Hi", "up0"], [])]
listed = page.get_api_info()["named_endpoints"]["/generate"]["parameters"]
print(json.dumps([*calls, [parameter["parameter_name"] for parameter in listed]]))
"""


def test_a_short_call_over_http_is_filled_in_as_the_client_does(tiny_pack_dir: Path) -> None:
    """In a process of its own, since Gradio leaves event loops behind."""
    filled, empty, names = json.loads(in_python(SHORT, MPD_PACK=str(tiny_pack_dir)))
    assert names[:5] == ["instruction", "dim0", "dim1", "dim2", "method"]
    assert filled[:6] == ["Hi", "up0", "", "", "mpd", 32]
    assert len(filled) == len(empty) == len(names)
    assert empty[0] is None
