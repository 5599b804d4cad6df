"""A LLaMA of a few thousand parameters as a GGUF file, and as a wheel that carries it."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np

HIDDEN, FEED, HEADS, LAYERS = 32, 48, 4, 2
MEMBER = "tiny_base/tiny.gguf"


def _alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = [byte for byte in range(256) if byte not in plain]
    return [chr(code) for code in plain] + [chr(256 + i) for i in range(len(extra))]


def write_gguf(
    path: Path,
    *,
    drop: str | None = None,
    add: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    kinds: dict[str, str] | None = None,
    leave_out: frozenset[str] = frozenset(),
    words: tuple[str, ...] = ("he", "ll", "hell"),
    marks: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
) -> str:
    """Write the model with fixed random weights; its SHA-256.

    Args:
        path: of the file.
        drop: leave out tensors whose names begin so.
        add: more tensors.
        settings: more of the file's own, by their full names.
        kinds: types of tensors, by the last part of their names; others are fp32.
        leave_out: names of the file's own settings that it is to lack, as its writer calls them.
        words: the last tokens; blanks among them are read whole wherever they stand.
        marks: the first tokens, which control a conversation.
    """
    tokens = [*marks, *_alphabet(), *words]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    own: dict[str, Any] = {
        "context_length": 256,
        "embedding_length": HIDDEN,
        "block_count": LAYERS,
        "feed_forward_length": FEED,
        "head_count": HEADS,
        "head_count_kv": HEADS // 2,
        "layer_norm_rms_eps": 1e-5,
        "rope_freq_base": 10000.0,
        "vocab_size": len(tokens),
        "tokenizer_model": "gpt2",
        "token_list": tokens,
        "token_types": [3] * len(marks)
        + [1 if token.strip() else 4 for token in tokens[len(marks) :]],
        "token_merges": [m for m in ("h e", "l l", "he ll") if m.replace(" ", "") in words],
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    for name in (one for one in own if one not in leave_out):
        getattr(writer, f"add_{name}")(own[name])
    for key, value in (settings or {}).items():
        kinds = {bool: "bool", int: "uint32", float: "float32", str: "string"}
        getattr(writer, f"add_{kinds[type(value)]}")(key, value)
    random = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), HIDDEN), "output_norm": (HIDDEN,)}
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        shapes |= {block + name: (HIDDEN,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {block + name: (HIDDEN, HIDDEN) for name in ("attn_q", "attn_output")}
        shapes |= {block + name: (HIDDEN // 2, HIDDEN) for name in ("attn_k", "attn_v")}
        shapes |= {block + name: (FEED, HIDDEN) for name in ("ffn_gate", "ffn_up")}
        shapes[block + "ffn_down"] = (HIDDEN, FEED)
    for name, shape in shapes.items():
        tensor = random.normal(0, 0.1, shape).astype(np.float32)
        if drop is None or not name.startswith(drop):
            kind = gguf.GGMLQuantizationType[(kinds or {}).get(name.rpartition(".")[2], "F32")]
            blocks = gguf.quants.quantize(tensor, kind)
            writer.add_tensor(f"{name}.weight", blocks, raw_dtype=kind)
    for name, values in (add or {}).items():
        writer.add_tensor(name, np.array(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_wheel(folder: Path, payload: bytes, member: str = MEMBER) -> Path:
    """A wheel of ``tiny-base==1.0`` whose own module cannot be imported, like the real one's."""
    info = "tiny_base-1.0.dist-info"
    files = {
        member: payload,
        "tiny_base/__init__.py": b"import a_module_that_is_not_there\n",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-base\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    wheel = folder / "tiny_base-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in {**files, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(name, content)
    return wheel
