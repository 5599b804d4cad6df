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
) -> str:
    """Write the model with fixed random weights; its SHA-256.

    Args:
        path: of the file.
        drop: leave out tensors whose names begin so.
        add: more tensors.
        settings: more of the file's own, by their full names.
        kinds: types of tensors, by the last part of their names; others are fp32.
    """
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *_alphabet(), "he", "ll", "hell"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(special) + [1] * (len(tokens) - len(special)))
    writer.add_token_merges(["h e", "l l", "he ll"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
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
