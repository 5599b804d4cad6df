"""The wire format of `/v1/completions` with token ids: requests, and validated responses.

A remote server may be misconfigured, broken or hostile. Everything it sends is validated here,
from bytes to distributions; nothing in this module opens a connection.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpd_core.remote.exchange import FailureError

SUM_TOLERANCE = 1e-3  # servers round, and some compute in half precision
LEAST_MISSING = 1e-8  # keeps every log-probability finite when the listed ones sum to 1
_TOKEN_KEY = re.compile(r"token_id:(0|[1-9][0-9]{0,8})")


class BadAnswerError(FailureError):
    """A response that cannot be used."""


@dataclass(frozen=True, eq=False)
class RemoteAnswer:
    """A remote expert's distribution over the next token of one prompt."""

    log_probs: Tensor
    """Natural logs over the base's vocabulary, normalised and finite, [V]."""
    missing: float
    """Probability that the server did not list, from 0 to 1; spread over the other tokens."""
    listed: Tensor
    """Ids that the server listed, ascending, [L]."""


def completion_request(model: str, prompts: Sequence[Sequence[int]], top_k: int) -> bytes:
    """The JSON body that asks for one token after each prompt, with the ``top_k`` likeliest listed.

    Prompts are lists of token ids; ``model`` is what the server calls it.
    """
    body = {
        "model": model,
        "prompt": [list(prompt) for prompt in prompts],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": top_k,
        "return_tokens_as_token_ids": True,
        "add_special_tokens": False,
    }
    return json.dumps(body, separators=(",", ":")).encode()


def parse_answers(body: bytes, prompts: int, vocab_size: int, top_k: int) -> list[RemoteAnswer]:
    """The distributions in a response's body, in the order of so many ``prompts``.

    ``vocab_size`` is V, ``top_k`` how many tokens a prompt were asked for.

    Raises:
        BadAnswerError: anything that an honest server with the base's vocabulary would not send.
    """
    listings = [_listing(choice, vocab_size) for choice in _choices(_load(body), prompts)]
    for listing in listings:
        _check_top_k(listing, vocab_size, min(top_k, vocab_size))
    return [_distribution(listing, vocab_size) for listing in listings]


def _load(body: bytes) -> Any:
    try:
        return json.loads(body, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise BadAnswerError(
            f"sent {len(body)} bytes that are not whole JSON: check that the address is a"
            " completion server's"
        ) from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise BadAnswerError("listed a token twice: its answer cannot be trusted")
    return table


def _choices(data: Any, prompts: int) -> list[dict[str, Any]]:
    """One choice per prompt, sorted by index: servers may return them in any order."""
    choices = data.get("choices") if isinstance(data, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise BadAnswerError("sent no choices: check that the address is a completion server's")
    indices = [choice.get("index") for choice in choices]
    whole = all(type(index) is int for index in indices)
    if not whole or sorted(indices) != list(range(prompts)):
        raise BadAnswerError(
            f"sent {len(choices)} choices for {prompts} prompts, or numbered them wrongly: the"
            " server must take a list of token-id lists as prompt"
        )
    return sorted(choices, key=lambda choice: int(choice["index"]))


def _listing(choice: dict[str, Any], vocab_size: int) -> dict[int, float]:
    """The log-probabilities (natural log) that a choice lists for its only token, by token id."""
    logprobs = choice.get("logprobs")
    top = logprobs.get("top_logprobs") if isinstance(logprobs, dict) else None
    if not isinstance(top, list) or len(top) != 1 or not isinstance(top[0], dict) or not top[0]:
        raise BadAnswerError("sent no log-probabilities: serve the model with them switched on")
    listing = {_token_id(key, vocab_size): _log_prob(value) for key, value in top[0].items()}
    total = math.fsum(map(math.exp, listing.values()))
    if total > 1.0 + SUM_TOLERANCE:
        raise BadAnswerError(
            f"sent probabilities that sum to {total:.4g}: it must send natural-log probabilities"
            " (vLLM: --logprobs-mode raw_logprobs)"
        )
    return listing


def _token_id(key: str, vocab_size: int) -> int:
    match = _TOKEN_KEY.fullmatch(key)
    if not match:
        raise BadAnswerError(
            f"named a token {key[:40]!r} instead of token_id:N: it does not support"
            " return_tokens_as_token_ids (vLLM does)"
        )
    token_id = int(match.group(1))
    if token_id >= vocab_size:
        raise BadAnswerError(
            f"listed token {token_id}, and the vocabulary has {vocab_size} tokens: serve a model"
            " with the base's tokenizer there"
        )
    return token_id


def _log_prob(value: object) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Bounded before math.isfinite: an integer of 400 digits does not fit a float.
    if not number or not -1e30 < value <= SUM_TOLERANCE:  # type: ignore[operator]
        raise BadAnswerError(
            f"sent {str(value)[:40]!r} as a log-probability: it must be a finite number of at most"
            " 0; check the model on the server"
        )
    return float(value)  # type: ignore[arg-type]


def _check_top_k(listing: dict[int, float], vocab_size: int, top_k: int) -> None:
    """Check that the listed tokens can be the top k: no unlisted one may exceed the least."""
    if len(listing) < top_k:
        raise BadAnswerError(
            f"listed {len(listing)} tokens of the {top_k} that were asked for: lower top_k, or"
            " raise the server's limit (vLLM: --max-logprobs)"
        )
    others = vocab_size - len(listing)
    missing = 1.0 - math.fsum(map(math.exp, listing.values()))
    most = 1.01 * others * math.exp(min(listing.values())) + SUM_TOLERANCE
    if missing > most:
        raise BadAnswerError(
            f"left {missing:.3g} of the probability to {others} tokens that it did not list, where"
            f" at most {most:.3g} fits: it does not list the likeliest tokens of a whole"
            " distribution"
        )


def _distribution(listing: dict[int, float], vocab_size: int) -> RemoteAnswer:
    """All V log-probabilities from L listed ones p_v that sum to s.

    The missing mass m = max(1 - s, 0) is spread uniformly: each of the V - L other tokens gets
    q = max(m, 1e-8) / (V - L), and everything is divided by the sum. q is at most the least p_v
    (rounding could make it more), so that no other token passes a listed one.
    """
    ids, values = zip(*sorted(listing.items()), strict=True)
    total = math.fsum(map(math.exp, values))
    missing, others = max(1.0 - total, 0.0), vocab_size - len(ids)
    rest = math.log(max(missing, LEAST_MISSING) / others) if others else 0.0
    rest = min(rest, *values)
    scale = math.log(total + others * math.exp(rest))
    listed = torch.tensor(ids, dtype=torch.long)
    # By numpy: a torch.full of this size would start a pool of OpenMP threads in every thread that
    # waits for a server, and more of those than cores halve the engine's speed.
    log_probs = torch.from_numpy(np.full(vocab_size, rest - scale, dtype=np.float32))
    log_probs[listed] = torch.tensor([value - scale for value in values], dtype=torch.float32)
    return RemoteAnswer(log_probs, missing, listed)
