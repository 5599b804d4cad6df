"""Token numbers: experts that are merged number alike, and every model embeds what it reads."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from mpd_core.errors import PackError, shortened

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 3


def check_same_vocabulary(
    base_tokenizer: PreTrainedTokenizerBase, other_tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    """Check that the expert ``name`` numbers tokens as the base does, special tokens included.

    Raises:
        PackError: one line with the sizes and the first differences.
    """
    base, other = base_tokenizer.get_vocab(), other_tokenizer.get_vocab()
    sizes = f"it has {len(other)} tokens and the base {len(base)}"
    differences = [
        *([sizes] if len(base) != len(other) else ()),
        *_tokens(base, other),
        *_roles(base_tokenizer, other_tokenizer),
        *_added(base_tokenizer, other_tokenizer),
    ]
    if differences:
        raise PackError(
            f"Expert '{name}' does not share the base's vocabulary: {'; '.join(differences)}."
            " Experts must number the same tokens alike: use a checkpoint of the same family."
        )


def check_reads_alike(
    base_tokenizer: PreTrainedTokenizerBase, other_tokenizer: PreTrainedTokenizerBase, model: str
) -> None:
    """Check that a model which only reads numbers tokens as the base does; it may lack added ones.

    All texts are read with the base's tokenizer; ``model`` is the other's key in the pack.

    Raises:
        PackError: one line with the first differences.
    """
    base, other = base_tokenizer.get_vocab(), other_tokenizer.get_vocab()
    added = {str(token) for token in base_tokenizer.added_tokens_decoder.values()}
    own = {token: i for token, i in base.items() if token not in added}
    differences = _tokens(own, {token: other[token] for token in own.keys() & other.keys()})
    if differences:
        raise PackError(
            f"{model}: its tokenizer is not the base's: {'; '.join(differences)}. It reads the "
            "base's tokens: use a backbone of the same family."
        )


def check_embedded(
    tokenizer: PreTrainedTokenizerBase, size: int, *, unused: Collection[int], model: str
) -> None:
    """Check that a model embeds every token that it can be given.

    Args:
        tokenizer: the base's.
        size: how many tokens the model embeds.
        unused: ids that no prompt and no reply holds, whether they are embedded or not.
        model: its key in the pack.

    Raises:
        PackError: one line with the first token that has no embedding.
    """
    beyond = (pair for pair in tokenizer.get_vocab().items() if pair[1] >= size)
    lacking = sorted((i, token) for token, i in beyond if i not in unused)
    if lacking:
        token_id, token = lacking[0]
        raise PackError(
            f"{model}: the tokenizer numbers {_quote(token)} {token_id}, but the model embeds only "
            f"{size} tokens: use the tokenizer that it was trained with, or resize its embedding."
        )


def _tokens(base: dict[str, int], other: dict[str, int]) -> list[str]:
    """The first tokens by id that only one of them has, or that have two numbers."""
    differing = [token for token in {**other, **base} if base.get(token) != other.get(token)]
    differing.sort(key=lambda token: (base.get(token, other.get(token, 0)), token))
    return _first(differing, lambda token: (_id(other.get(token)), _id(base.get(token))))


def _roles(
    base_tokenizer: PreTrainedTokenizerBase, other_tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """Special tokens by what they are for; padding and unknown ones are never read here."""
    found = []
    for role in ("bos_token", "eos_token"):
        there, here = getattr(other_tokenizer, role), getattr(base_tokenizer, role)
        if there != here:
            found.append(f"{role} is {_quote(there)} there and {_quote(here)} in the base")
    return found


def _added(
    base_tokenizer: PreTrainedTokenizerBase, other_tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """Tokens that one tokenizer takes whole out of a text, and the other may split."""
    base = {str(token): token.special for token in base_tokenizer.added_tokens_decoder.values()}
    other = {str(token): token.special for token in other_tokenizer.added_tokens_decoder.values()}
    differing = sorted(t for t in {**base, **other} if base.get(t) != other.get(t))
    kinds = {None: "no added token", False: "an added token", True: "a special token"}
    return _first(differing, lambda t: (kinds[other.get(t)], kinds[base.get(t)]), " added tokens")


def _first(
    tokens: list[str], what: Callable[[str], tuple[str, str]], called: str = ""
) -> list[str]:
    """The first of these, with what each is there and in the base, and how many more there are."""
    shown = [
        f"{_quote(t)} is {what(t)[0]} there and {what(t)[1]} in the base" for t in tokens[:SHOWN]
    ]
    more = len(tokens) - len(shown)
    return [*shown, f"{more} more{called} differ"] if more else shown


def _id(token_id: int | None) -> str:
    return "absent" if token_id is None else str(token_id)


def _quote(token: str | None) -> str:
    """A token in quotes, escaped and short: they may hold newlines and much else."""
    if token is None:
        return "absent"
    quoted = ascii(token)
    return quoted if len(quoted) <= 40 else shortened(quoted, 40) + "'"
