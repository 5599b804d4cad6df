"""Packs: what a deployment is made of, in TOML."""

from mpd_core.packs.pack import DEFAULT_PACK, Pack, file_sha256, load_pack, pack_names
from mpd_core.packs.schema import PackSpec, Precision, Quantize, RemoteTable, TemplateSpec
from mpd_core.packs.tables import (
    FolderSource,
    GGUFSource,
    HubSource,
    Source,
    Table,
    complaints,
    read_table,
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
    "load_pack",
    "pack_names",
    "read_table",
]
