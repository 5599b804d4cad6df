"""Packs: what a deployment is made of, in TOML."""

from mpd_core.packs.pack import DEFAULT_PACK, Pack, complaints, file_sha256, load_pack, pack_names
from mpd_core.packs.schema import (
    FolderSource,
    GGUFSource,
    HubSource,
    PackSpec,
    Precision,
    Quantize,
    RemoteTable,
    Source,
    Table,
    TemplateSpec,
    is_simplex,
)

__all__ = [
    "DEFAULT_PACK",
    "FolderSource",
    "GGUFSource",
    "HubSource",
    "Pack",
    "PackSpec",
    "Precision",
    "Quantize",
    "RemoteTable",
    "Source",
    "Table",
    "TemplateSpec",
    "complaints",
    "file_sha256",
    "is_simplex",
    "load_pack",
    "pack_names",
]
