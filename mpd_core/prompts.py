"""From a conversation to token ids, and back from token ids to text. Templates live only here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from mpd_core.errors import PackError
from mpd_core.packs import TemplateSpec
from mpd_core.request import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class PromptRenderer:
    """Renders a conversation, with or without preference sentences, through a chat template.

    What a person wrote can never become a control token: markers of the template are defused in
    it (``<|im_end|>`` becomes ``< |im_end|>``), and everything else reaches the model unchanged.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: TemplateSpec) -> None:
        self._tokenizer = tokenizer
        self._template = template
        chat = template.chat or tokenizer.chat_template
        if not chat:
            raise PackError("template.chat: the tokenizer brings no chat template; write one.")
        self._chat = chat
        added = (str(token) for token in tokenizer.added_tokens_decoder.values())
        self._markers = sorted({*added, *tokenizer.all_special_tokens, *template.reserved})
        self.end_of_turn = self._end_of_turn()

    def render(self, messages: Sequence[Message], instructions: Sequence[str] = ()) -> list[int]:
        """Prompt ids that end where the reply begins; arguments as for ``text``."""
        text = self.text(messages, instructions)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, messages: Sequence[Message], instructions: Sequence[str] = ()) -> str:
        """The prompt as text, control tokens included.

        Args:
            messages: the conversation; the last one is the user's.
            instructions: preference sentences, joined to the last message by the pack's template.
        """
        *earlier, last = (Message(m.role, self._defuse(m.content)) for m in messages)
        content = last.content
        if instructions:
            before, between, after = self._slots(content, " ".join(instructions))
            content = before + between + after
        turns = [{"role": m.role, "content": m.content} for m in earlier]
        turns.append({"role": last.role, "content": content})
        text: str = self._tokenizer.apply_chat_template(
            turns, chat_template=self._chat, tokenize=False, add_generation_prompt=True
        )
        return text

    def _slots(self, instruction: str, preference: str) -> tuple[str, str, str]:
        # Filled by position, not by repeated replacement: user text may hold "{preference}".
        values = {"{instruction}": instruction, "{preference}": preference}
        template = self._template.preference
        first, second = sorted(values, key=template.index)
        before, rest = template.split(first)
        between, after = rest.split(second)
        return before + values[first], between + values[second], after

    def _defuse(self, content: str) -> str:
        content = content.strip()
        for marker in self._markers:
            content = content.replace(marker, f"{marker[0]} {marker[1:]}")
        return content

    def _end_of_turn(self) -> frozenset[int]:
        names = self._template.end_of_turn
        ids = self._tokenizer.convert_tokens_to_ids(list(names))
        for name, token_id in zip(names, ids, strict=True):
            if token_id is None or self._tokenizer.convert_ids_to_tokens(token_id) != name:
                raise PackError(f"template.end_of_turn: the tokenizer has no token '{name}'.")
        if not ids and self._tokenizer.eos_token_id is None:
            raise PackError("template.end_of_turn: name the token that ends a reply.")
        return frozenset(ids or [self._tokenizer.eos_token_id])


def name_tokens(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], str]:
    """Each token's text by itself, kept once it has been asked for: candidates come again."""
    return cache(lambda token_id: tokenizer.decode([token_id]))


class StreamDecoder:
    """Turns token ids into pieces of text, one a token, that join to exactly the decoded whole.

    A piece that ends inside a UTF-8 character is held until the character is complete. Only a
    short window is decoded at each step, so a long reply costs no more than a short one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0  # the window: decoded again so that the tokenizer sees left context
        self._sent = 0  # ids before this one have been returned

    def push(self, token_id: int, *, last: bool = False) -> str:
        """The text that this token completes; with ``last``, also whatever was held back."""
        self._ids.append(token_id)
        known = self._decode(self._ids[self._start : self._sent])
        text = self._decode(self._ids[self._start :])
        if text.endswith(REPLACEMENT) and not last:
            return ""
        self._start, self._sent = self._sent, len(self._ids)
        return text[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
