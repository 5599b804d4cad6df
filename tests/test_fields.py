"""One list of numbers: page, ``/generate``, command line, packs and checks cannot differ."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from mpd_core.bench.values import BenchOptions
from mpd_core.cli.app import app, main
from mpd_core.errors import RequestError
from mpd_core.fields import Number, numbers_of
from mpd_core.packs import load_pack
from mpd_core.packs.schema import DecodeSpec
from mpd_core.request import NUMBERS, GenerationRequest, Sampling
from mpd_core.ui import ask, settings, zerogpu
from mpd_core.ui.api import generate_function
from tests.browser.scripted import ScriptedEngine

WAYS = ("python", "command", "endpoint", "page")


@pytest.fixture(scope="module")
def engine(tiny_pack_dir: Path) -> ScriptedEngine:
    return ScriptedEngine(load_pack(tiny_pack_dir), pause=0.0)


@pytest.fixture
def make(
    engine: ScriptedEngine, tiny_pack_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, dict[str, Any]], GenerationRequest]:
    """The request that a way in makes of some numbers."""

    def command(numbers: dict[str, Any]) -> GenerationRequest:
        monkeypatch.setattr("mpd_core.cli.app._engine", lambda *_: nullcontext(engine))
        options = [f"--{name.replace('_', '-')}={value}" for name, value in numbers.items()]
        run = CliRunner().invoke(app, ["generate", "Hi", "--pack", str(tiny_pack_dir), *options])
        if run.exception:
            raise run.exception
        return engine.streams[-1].request

    def endpoint(numbers: dict[str, Any]) -> GenerationRequest:
        try:
            poles = [dimension.poles[0].name for dimension in engine.pack.space.dimensions]
            list(generate_function(engine, zerogpu.producer(engine))("Hi", *poles, **numbers))  # type: ignore[arg-type]
        except gr.Error as error:
            raise RequestError(error.message) from error
        return engine.streams[-1].request

    def page(numbers: dict[str, Any]) -> GenerationRequest:
        messages = [{"role": "user", "content": "Hi"}]
        one = {"messages": messages, "preference": "AAA", "settings": numbers}
        return ask.request(one, engine.pack)

    ways: dict[str, Callable[[dict[str, Any]], GenerationRequest]] = {
        "python": lambda numbers: engine.pack.request("Hi", "AAA", **numbers),
        "command": command,
        "endpoint": endpoint,
        "page": page,
    }
    return lambda way, numbers: ways[way](numbers)


def another(number: Number) -> float:
    """A value within bounds that is no default, of the request or of a pack."""
    value = number.low + 0.3 * (min(number.high, 100) - number.low)
    return int(value) if number.whole else value


def test_every_field_of_a_request_is_declared_as_a_number_or_known_as_something_else() -> None:
    others = {"messages", "preference", "method", "space", "sampling", "branch"}
    assert {f.name for f in fields(Sampling)} == set(numbers_of(Sampling))
    assert {f.name for f in fields(GenerationRequest)} - others == set(
        numbers_of(GenerationRequest)
    )
    assert all(number.help and number.label for number in NUMBERS.values())


@pytest.mark.parametrize("way", WAYS)
def test_every_number_arrives_by_every_way(
    make: Callable[[str, dict[str, Any]], GenerationRequest], way: str
) -> None:
    numbers = {name: another(number) for name, number in NUMBERS.items()}
    request = make(way, numbers)
    own = {name: getattr(request, name) for name in numbers_of(GenerationRequest)}
    assert own | {name: getattr(request.sampling, name) for name in numbers_of(Sampling)} == numbers


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NUMBERS)
def test_every_way_refuses_the_same_numbers_in_the_same_sentence(
    make: Callable[[str, dict[str, Any]], GenerationRequest], name: str, way: str
) -> None:
    number = NUMBERS[name]
    for bad in (2 * number.high + 1, number.low if number.above else number.low - 1):
        bad = int(bad) if number.whole else float(bad)
        with pytest.raises(RequestError) as refused:
            make(way, {name: bad})
        with pytest.raises(RequestError) as directly:
            number.check(bad)
        assert str(refused.value) == str(directly.value)


@pytest.mark.parametrize("name", [name for name in NUMBERS if name != "seed"])
def test_a_packs_own_numbers_have_the_same_bounds(name: str) -> None:
    number = NUMBERS[name]
    DecodeSpec.model_validate({name: number.high})
    with pytest.raises(ValidationError, match=name):
        DecodeSpec.model_validate({name: 2 * number.high + 1})
    with pytest.raises(ValidationError, match=name):
        DecodeSpec.model_validate({name: number.low if number.above else number.low - 1})


def test_the_page_and_the_help_say_what_the_declaration_says(
    engine: ScriptedEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    controls = settings.build(engine)  # type: ignore[arg-type]
    assert list(controls) == ["method", "space", *NUMBERS]
    assert main(["generate", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, number in NUMBERS.items():
        assert number.help in controls[name].info
        assert controls[name].label == number.label
        assert f"--{name.replace('_', '-')}" in shown
        assert " ".join(number.help.split()) in shown


def test_a_new_number_is_everywhere_at_once(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reads the list reads all of it: a number that is only declared has a control."""
    new = Number("warmth", 0.5, 0.0, 1.0, "Of the tone.", False)
    monkeypatch.setitem(NUMBERS, "warmth", new)
    assert settings.build(engine)["warmth"].value == 0.5  # type: ignore[arg-type]
    signature = generate_function(engine, zerogpu.producer(engine)).__signature__  # type: ignore[attr-defined, arg-type]
    assert signature.parameters["warmth"].annotation is float


def test_the_benchs_sizes_are_declared_alike(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--tokens", "1"]) == 2
    assert "tokens is 1: give a whole number from 2 to 512." in capsys.readouterr().err
    assert main(["bench", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(number.help in shown for number in numbers_of(BenchOptions).values())
