"""Packs: what is read, and what each mistake is answered with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mpd_core.engine import Engine
from mpd_core.errors import PackError, RequestError
from mpd_core.packs import DEFAULT_PACK, Pack, file_sha256, load_pack, pack_names
from mpd_core.resources import MOST_BYTES
from tests import tiny


def test_shipped_packs() -> None:
    assert pack_names() == ["smollm2-135m", "smollm2-135m-probability", "tulu-2-7b"]
    for name in pack_names():
        pack = load_pack(name)
        assert [p.code for p in pack.space] == [
            "AAA",
            "AAB",
            "ABA",
            "ABB",
            "BAA",
            "BAB",
            "BBA",
            "BBB",
        ]
        assert pack.spec.examples
    assert load_pack().spec.name == DEFAULT_PACK
    papers = load_pack("smollm2-135m-probability").spec
    assert (papers.decode.space, papers.experts.prompt) == ("probability", "plain")
    tulu = load_pack("tulu-2-7b").spec
    assert (tulu.base.name, tulu.base.quantize) == ("allenai/tulu-2-7b", "nf4")


def test_environment_selects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPD_PACK", "tulu-2-7b")
    assert load_pack().spec.name == "tulu-2-7b"
    assert load_pack(DEFAULT_PACK).spec.name == DEFAULT_PACK


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "Tiny"', 'title = "Tiny"\ncolour = 1', "colour: unknown key"),
        ('title = "Tiny"', "", "title: missing key"),
        ('kind = "folder"', 'kind = "floppy"', r"base\.source"),
        ("context = 1024", "context = 3", r"decode\.context"),
        ('"Please go up 0."', '" "', r"dimensions\.0\.poles\.0\.instruction: String should match"),
        ('prompt = "own"', 'prompt = "shout"', r"experts\.prompt"),
        ('name = "down0"', 'name = "up0"', "pole 'up0' stands twice"),
        ('name = "dim1"', 'name = "dim0"', "dimension 'dim0' stands twice"),
        ('title = "Tiny"', 'title = "Tiny', "cannot be read"),
        (
            'title = "Tiny"',
            'title = "Tiny"\nexamples = [["x", "AZA"]]',
            "examples, static: 'Z' is no pole",
        ),
        ("[pcm]", '[template]\npreference = "no slots"\n[pcm]', r"template\.preference"),
        (
            "[pcm]",
            f'[experts.adapters.nobody]\nfolder = "x"\nsha256 = "{"0" * 64}"\n[pcm]',
            r"experts\.adapters\.nobody: no such pole",
        ),
        (
            "[pcm]",
            f'[experts.adapters.up0]\nfolder = "x"\nsha256 = "{"0" * 64}"\n[pcm]',
            r"experts\.adapters\.up0: .*x/adapter_model\.safetensors is missing",
        ),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, tiny_base: Path, old: str, new: str, message: str
) -> None:
    file = tiny.write_pack(tmp_path, tiny_base) / "pack.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(PackError, match=message):
        load_pack(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"a = " + b"[" * 100_000,
        b"a = " + b"1" * 5000,
        b"a = 1\na = 2",
        b"\xff",
        b"#" * (MOST_BYTES + 1),
        b"a" + b".a" * 100_000 + b" = 1",
        b"[" + b'"a\\"" . ' * 40 + b"a]",
        b'a = {b = """"""""' + b", c" + b".c" * 40 + b" = 1}",
        b'a = "' + b'\\"' * 400_000,
    ],
    ids=lambda content: repr(content[:12]),
)
def test_what_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    """Brackets and numbers without end, a key twice, other bytes, megabytes, keys of many parts."""
    (tmp_path / "pack.toml").write_bytes(content)
    with pytest.raises(PackError, match=r"pack\.toml: cannot be read: ") as caught:
        load_pack(tmp_path)
    assert "\n" not in str(caught.value)


def test_texts_and_lists_may_have_any_number_of_dots(make_pack: Callable[..., Pack]) -> None:
    """Keys may not: a parser's time grows with the square of their parts."""
    folder = make_pack().folder
    file, dots = folder / "pack.toml", "a. b. c. " * 40
    text = f"# {dots}\n{file.read_text()}\n[dotted]\nnumbers = [{'0.5, ' * 100}]\n"
    for k, quote in enumerate(['"', "'", '"""\n', "'''\n"]):
        text += f"text{k} = {quote}{dots}{quote.strip()}\n"
    file.write_text(text)
    with pytest.raises(PackError, match=r"pack\.toml: dotted: unknown key$"):
        load_pack(folder)


def test_of_very_many_mistakes_the_first_are_told(tmp_path: Path) -> None:
    (tmp_path / "pack.toml").write_text("".join(f"t{k} = 1\n" for k in range(1000)))
    with pytest.raises(PackError, match=r"t3: unknown key; .*; 985 more$") as caught:
        load_pack(tmp_path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["../../etc", "x" * 5000, "~nobody-of-that-name/x", "a\0b"])
def test_unknown_pack_lists_the_known(name: str) -> None:
    with pytest.raises(PackError, match="smollm2-135m, smollm2-135m-probability, tulu-2-7b"):
        load_pack(name)


def test_tampered_weights_are_refused(make_pack: Callable[..., Pack]) -> None:
    folder = make_pack(adapters=True, pcm_trained=True).folder
    for name, key in [
        ("up1/adapter_model.safetensors", r"experts\.adapters\.up1"),
        ("head.safetensors", r"pcm\.head"),
    ]:
        file = folder / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(PackError, match=f"{key}: .*another SHA-256"):
            load_pack(folder)
        file.write_bytes(whole)
    load_pack(folder)


def test_an_adapters_configuration_is_held_to_where_it_is_pinned(
    make_pack: Callable[..., Pack],
) -> None:
    """Twice the alpha is another adapter, with the same weights."""
    folder = make_pack(adapters=True).folder
    file, toml = folder / "up1" / "adapter_config.json", folder / "pack.toml"
    weights = f'sha256 = "{file_sha256(folder / "up1" / "adapter_model.safetensors")}"'
    pinned = f'{weights}\nconfig_sha256 = "{file_sha256(file)}"'
    toml.write_text(toml.read_text().replace(weights, pinned))
    assert load_pack(folder).hashes["experts.adapters.up1.config"] == file_sha256(file)
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"lora_alpha": 2 * config["lora_alpha"]}))
    with pytest.raises(PackError, match=r"up1\.config: .*adapter_config\.json has another SHA-256"):
        load_pack(folder)


def test_weights_of_another_shape_are_refused(
    make_pack: Callable[..., Pack], tmp_path: Path
) -> None:
    """Adapters that were made for a base of another width."""
    other = tiny.save_base(tmp_path, hidden=32)
    pack = make_pack(adapters=True, pcm_trained=True)
    file = pack.folder / "pack.toml"
    file.write_text(file.read_text().replace(str(pack.spec.base.source.folder), str(other)))  # type: ignore[union-attr]
    with pytest.raises(PackError, match=r"adapter 'up0': .*do not fit"):
        Engine.open(load_pack(pack.folder))


def test_head_of_another_shape_is_refused(make_pack: Callable[..., Pack]) -> None:
    pack = make_pack(pcm_trained=True)
    text = (pack.folder / "pack.toml").read_text()
    head = tiny.save_head(pack.folder / "head.safetensors", hidden=64, poles=5)
    old = text.split('file = "head.safetensors", sha256 = "')[1][:64]
    new = tiny.file_sha256(head)
    (pack.folder / "pack.toml").write_text(text.replace(old, new))
    with pytest.raises(PackError, match=r"pcm\.head.*\(5, 64\).*\(6, 64\)"):
        Engine.open(load_pack(pack.folder))


def test_a_template_that_fails_is_refused_before_weights_are_read(
    tmp_path: Path, tiny_base: Path
) -> None:
    file = tiny.write_pack(tmp_path, tiny_base) / "pack.toml"
    broken = '[template]\nchat = "{% for message in messages %}{{ message.content }"\n[pcm]'
    file.write_text(file.read_text("utf-8").replace("[pcm]", broken), encoding="utf-8")
    told: list[str] = []
    with pytest.raises(PackError, match=r"^template\.chat: the chat template fails"):
        Engine.open(load_pack(tmp_path), progress=told.append)
    assert not [sentence for sentence in told if sentence.startswith("Loading")]


def test_decode_defaults_and_limit() -> None:
    decode = load_pack(DEFAULT_PACK).spec.decode
    assert decode.sampling(temperature=None).temperature == decode.temperature
    assert decode.sampling(temperature=0.7).temperature == 0.7
    with pytest.raises(RequestError, match="at most 512"):
        decode.sampling(max_new_tokens=513)


def test_a_preference_that_leaves_dimensions_out_gets_its_share_of_strength(
    make_pack: Callable[..., Pack],
) -> None:
    """2.4 for three dimensions is 1.6 for two and 1 (logit space), not 0.8, for one."""
    pack = make_pack(dimensions=3, extra='space = "strength"\nstrength = 2.4')
    merged = [pack.merging(pack.space.parse(code)) for code in ("ABA", "A-B", "-B-")]
    assert [m["space"] for m in merged] == ["strength"] * 3
    assert [m["strength"] for m in merged] == pytest.approx([2.4, 1.6, 1.0])
    assert pack.merging(pack.space.parse("-B-"), "logit", strength=3.0, settled=0.5) == {
        "space": "logit",
        "strength": 3.0,
        "settled": 0.5,
        "fade": 25.0,
        "plausibility": 0.05,
    }


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("a\\u0000b", r"experts\.adapters\.up0\.folder: is no path that a file can have"),
        ("a" * 5000, r"experts\.adapters\.up0\.folder: is no path that a file can have"),
        ("a" * 400, r"experts\.adapters\.up0: .* cannot be read: .*File name too long"),
        ("circle", r"circle (leads nowhere|.* is missing)"),
        ("..\\\\elsewhere", r"experts\.adapters\.up0: .* is missing"),
    ],
    ids=lambda value: value[:12],
)
def test_a_path_that_no_file_has_is_named(
    tmp_path: Path, tiny_base: Path, folder: str, message: str
) -> None:
    """An error of the system's would be a traceback."""
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    adapter = f'[experts.adapters.up0]\nfolder = "{folder}"\nsha256 = "{"0" * 64}"'
    tiny.write_pack(tmp_path, tiny_base, experts=adapter)
    with pytest.raises(PackError, match=message) as caught:
        load_pack(tmp_path)
    assert "\n" not in str(caught.value)
