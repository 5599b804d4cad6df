"""The schema of ``pack.toml``: every table, key and bound; an unknown key is an error."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mpd_core.errors import RequestError
from mpd_core.method.static import is_simplex
from mpd_core.packs.tables import SHA256, Source, Table
from mpd_core.request import NUMBERS, Sampling, Space

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Quantize = Literal["none", "nf4"]
Precision = Literal["auto", "fp32", "fp16", "bf16", "q8"]
PromptKind = Literal["plain", "own"]


class BaseSpec(Table):
    """The frozen model that all local experts share."""

    name: str
    license: str = ""
    quantize: Quantize = "none"
    precision: Precision = "auto"
    """Of weights that are not quantised; ``auto``: on a CPU a GGUF's own blocks, else packed fp16;
    on a GPU bf16 or fp16. ``q8``: on a CPU what does not come in blocks is rounded to blocks of 8
    bits, a GGUF's Q8_0: about half of fp16's bytes."""
    source: Source


class TemplateSpec(Table):
    """How a conversation and a preference become text."""

    chat: str | None = None
    """Jinja chat template; default: the tokenizer's own."""
    preference: str = "{instruction}\n\n{preference}"
    """How preference sentences join the user's last message."""
    end_of_turn: tuple[str, ...] = ()
    """Tokens that end a reply; default: the tokenizer's end-of-sequence token."""
    reserved: tuple[str, ...] = ()
    """Markers of the template that are ordinary text to the tokenizer; defused in user text."""

    @field_validator("preference")
    @classmethod
    def _has_both_fields(cls, value: str) -> str:
        if any(value.count(slot) != 1 for slot in ("{instruction}", "{preference}")):
            raise ValueError("must hold {instruction} and {preference} once each")
        return value


class AdapterSpec(Table):
    """A LoRA adapter in PEFT's standard folder layout."""

    folder: Path
    sha256: str = Field(pattern=SHA256)
    """Of ``adapter_model.safetensors``."""
    config_sha256: str | None = Field(None, pattern=SHA256)
    """Of ``adapter_config.json``, whose alpha, rank and patterns scale every factor; packs of
    before this key do not pin it."""


class RemoteTable(Table):
    """An expert on a server with an OpenAI-compatible ``/v1/completions``, as vLLM has."""

    url: str
    """Base of the API, e.g. ``https://host:8000/v1``; over http a key travels in clear."""
    model: str
    """As the server names it, e.g. the LoRA module."""
    top_k: int = Field(20, ge=1, le=1000)
    """Log-probabilities to ask for; vLLM lists at most ``--max-logprobs``, by default 20."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key."""
    timeout_s: float = Field(10.0, gt=0, le=600)
    """Of one attempt, from connecting to the last byte."""
    retries: int = Field(2, ge=0, le=10)
    """Attempts after the first, for time-outs, lost connections, status 429 and 5xx."""
    ca_file: Path | None = None
    """More certificate authorities, PEM; https is always verified."""


class ExpertsSpec(Table):
    """One expert a pole, of whatever kind: without a table of its own, a prompted base."""

    prompt: PromptKind = "own"
    """``own``: an expert reads its pole's instruction; ``plain``: only what the user wrote."""
    adapters: dict[str, AdapterSpec] = Field(default_factory=dict)
    """LoRA adapters on the base."""
    checkpoints: dict[str, Source] = Field(default_factory=dict)
    """Other models, of any architecture, that share the base's tokenizer."""
    remotes: dict[str, RemoteTable] = Field(default_factory=dict)
    """Models on other machines that share the base's tokenizer."""
    anchor: AdapterSpec | None = None
    """LoRA on the base that answers in every pole's style alike and that experts went on from: what
    their shifts are measured from in the space ``strength``. Absent: the bare base."""
    prior: float = Field(0.0, ge=0.0, le=1.0)
    """How much of the anchor is in z_0, what shifts move: 0 is the bare base, 1 the anchor itself,
    which then counts as both; between them its adapter is scaled."""
    soup: Literal["product", "factors"] = "product"
    """Personalized Soup as the mean of the products B A, or, as published, of A and B apart."""


class HeadSpec(Table):
    """A trained weight head: safetensors with ``weight`` [poles, hidden] and ``bias`` [poles]."""

    file: Path
    sha256: str = Field(pattern=SHA256)


class PCMSpec(Table):
    """The Preference Control Model: a LLaMA backbone, LoRA on it, and a linear head."""

    backbone: Source | Literal["base"] = "base"
    adapter: AdapterSpec | None = None
    head: HeadSpec | None = None
    """Absent: a zero head, which weighs uniformly (MPD Uniform)."""


class RewardTable(AdapterSpec):
    """The reward models: an adapter of the base whose folder holds ``head.safetensors``, too, with
    ``weight`` [poles, hidden] and ``bias`` [poles]."""

    head_sha256: str = Field(pattern=SHA256)


def _bounds(name: str) -> Any:
    """Lower and upper bound of a numeric request field, as arguments of pydantic's ``Field``."""
    number = NUMBERS[name]
    low: Any = {"gt" if number.above else "ge": number.low}
    return Field(le=number.high, **low)


class DecodeSpec(Table):
    """Defaults and bounds of a request."""

    space: Space = "probability"
    strength: Annotated[float, _bounds("strength")] = 2.0
    """Of the space ``strength``, for a preference that chooses a pole in every dimension."""
    settled: Annotated[float, _bounds("settled")] = 1.0
    fade: Annotated[float, _bounds("fade")] = 25.0
    plausibility: Annotated[float, _bounds("plausibility")] = 0.05
    """How it fades and its floor; see ``GenerationRequest``."""
    context: int = Field(2048, ge=64, le=131_072)
    """Longest prompt plus reply, in tokens."""
    max_new_tokens: Annotated[int, _bounds("max_new_tokens")] = 128
    max_new_tokens_limit: Annotated[int, _bounds("max_new_tokens")] = 512
    temperature: Annotated[float, _bounds("temperature")] = 0.0
    top_p: Annotated[float, _bounds("top_p")] = 1.0
    repetition_penalty: Annotated[float, _bounds("repetition_penalty")] = 1.0
    dry_multiplier: Annotated[float, _bounds("dry_multiplier")] = 0.0
    top_k_recorded: int = Field(5, ge=1, le=50)

    def sampling(self, **overrides: Any) -> Sampling:
        """The pack's defaults, with what a client gave (None: not given).

        Raises:
            RequestError: a value out of bounds.
        """
        known = {field.name for field in fields(Sampling)} & type(self).model_fields.keys()
        given = {name: value for name, value in overrides.items() if value is not None}
        sampling = Sampling(**{name: getattr(self, name) for name in known} | given)
        if sampling.max_new_tokens > self.max_new_tokens_limit:
            raise RequestError(
                f"max_new_tokens is {sampling.max_new_tokens}: "
                f"this pack allows at most {self.max_new_tokens_limit}."
            )
        return sampling


RESERVED = {"anchor", "base", "pcm", "plain", "soup", "trunk"}
"""Row names that no pole may have: they do not stand for an expert."""


class PoleSpec(Table):
    """One pole of a dimension, and the sentence that asks for it (Table 1)."""

    name: str = Field(pattern=NAME)
    instruction: str = Field(pattern=r"\S", max_length=1000)

    @field_validator("name")
    @classmethod
    def _is_free(cls, value: str) -> str:
        if value in RESERVED:
            raise ValueError(f"'{value}' is the name of something else: choose another")
        return value


class DimensionSpec(Table):
    """A choice between poles; the first has the letter A."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")
    poles: tuple[PoleSpec, ...] = Field(min_length=2, max_length=26)


class PackSpec(Table):
    """The whole of ``pack.toml``."""

    schema_version: Literal[1]
    name: str = Field(pattern=NAME)
    title: str
    description: str = ""
    base: BaseSpec
    template: TemplateSpec = TemplateSpec()
    dimensions: tuple[DimensionSpec, ...] = Field(min_length=1)
    experts: ExpertsSpec = ExpertsSpec()
    pcm: PCMSpec = PCMSpec()
    rewards: RewardTable | None = None
    """For training and evaluation, not for serving."""
    static: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Best constant weights by preference code: a baseline for the PCM, one a chosen pole."""
    decode: DecodeSpec = DecodeSpec()
    examples: tuple[tuple[str, str], ...] = ()
    """Pairs of prompt and preference code for the page."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> PackSpec:
        poles = [pole.name for dimension in self.dimensions for pole in dimension.poles]
        for kind, names in (("dimension", [d.name for d in self.dimensions]), ("pole", poles)):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"dimensions: {kind} '{sorted(twice)[0]}' stands twice")
        return self

    @model_validator(mode="after")
    def _static_weights_fit(self) -> PackSpec:
        for code, weights in self.static.items():
            if not is_simplex(weights, len(code.replace("-", ""))):
                raise ValueError(f"static.{code}: give one weight for each chosen pole, sum 1")
        return self

    @model_validator(mode="after")
    def _experts_are_poles(self) -> PackSpec:
        poles = {pole.name for dimension in self.dimensions for pole in dimension.poles}
        if self.experts.prior and self.experts.anchor is None:
            raise ValueError("experts.prior: without [experts.anchor] there is nothing to begin at")
        kind_of: dict[str, str] = {}
        for kind in ("adapters", "checkpoints", "remotes"):
            for name in getattr(self.experts, kind):
                if name not in poles:
                    raise ValueError(f"experts.{kind}.{name}: no such pole")
                if name in kind_of:
                    raise ValueError(f"experts.{kind}.{name}: also in {kind_of[name]}")
                kind_of[name] = kind
        return self
