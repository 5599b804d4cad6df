"""A chat template, and a person's text in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from mpd_core.errors import MPDError, PackError, RequestError, one_line, others_as
from mpd_core.packs import TemplateSpec
from mpd_core.prompts import bounds
from mpd_core.prompts.control import ControlTokens, end_tokens, reading
from mpd_core.prompts.streaming import check_decoder
from mpd_core.request import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "mpd7"
"""What the user says in the conversation that every template must take: no template's own text."""
DELIMITERS = "<>[]|｜"
"""What markers are written with."""
BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"
"""What some editors put before a file's first line: no part of a prompt."""
MOST_KEPT = 64
"""Of sequences of roles that were seen to be taken: clients choose them."""


class PromptRenderer:
    """Renders a conversation, with or without preference sentences, through a chat template.

    What a person wrote can never become a control token: markers of the template are defused in
    it (``<|im_end|>`` becomes ``< |im_end|>``), and everything else reaches the model unchanged.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: TemplateSpec) -> None:
        """Check the template by rendering a user's turn.

        Raises:
            PackError: a template that is missing, does not compile, never ends, refuses a user's
                turn or leaves the user's words out; an end of turn or a marker that cannot be
                used; a tokenizer that text cannot be streamed with.
        """
        check_decoder(tokenizer)
        _check_steady(tokenizer)
        self._tokenizer = tokenizer
        self._template = template
        self._chat = _chosen(tokenizer, template.chat)
        self._tame = bounds.is_tame(self._chat)
        if not self._tame:
            bounds.check(self._chat)
        self.end_of_turn = end_tokens(tokenizer, template.end_of_turn)
        """Ids of the tokens that end a reply."""
        with others_as(PackError, lambda why: f"base: {why.rstrip('.')}; use the model's own one."):
            self.written = self._written()
            """Ids of the tokens that stand in every prompt."""
            self._beginning = self._left_to_begin()
        self._control = ControlTokens(tokenizer, self._chat, template.reserved, self.written)
        # Of its own replies a template may ask for parts: up to "</think>" it leaves them out.
        self._spoken = ControlTokens(tokenizer, "", template.reserved, self.written)
        self._kept: set[tuple[str, ...]] = set()  # roles of turns that were all seen in a prompt

    @property
    def control_ids(self) -> frozenset[int]:
        """Ids that a person's text never becomes."""
        return self._control.ids

    def render(self, messages: Sequence[Message], instructions: Sequence[str] = ()) -> list[int]:
        """Prompt ids that end where the reply begins; arguments and errors as for ``text``.

        Raises:
            RequestError: the template makes a control token of what a person wrote, too: it may
                change letters, or take some out.
        """
        ids = self._ids(self.text(messages, instructions))
        # Without what could be a marker, whatever becomes of its letters.
        bare = dict.fromkeys(map(ord, DELIMITERS), "-")
        plain = [
            m if m.role == "assistant" else replace(m, content=m.content.translate(bare))
            for m in messages
        ]
        if plain != list(messages):
            without = self._ids(self.text(plain, instructions))
            if self._markers(ids) != self._markers(without):
                raise RequestError(
                    "The chat template makes a control token of this text: leave out "
                    f"{' '.join(DELIMITERS)}."
                )
        return ids

    def _markers(self, ids: Sequence[int]) -> list[int]:
        return [token_id for token_id in ids if token_id in self.control_ids]

    def text(self, messages: Sequence[Message], instructions: Sequence[str] = ()) -> str:
        """The prompt as text, control tokens included.

        Preference sentences are joined to the last message, the user's, by the pack's template.

        Raises:
            RequestError: the template refuses these turns or leaves one out, or a text that cannot
                be defused.
        """
        kinds = [self._spoken if m.role == "assistant" else self._control for m in messages]
        turns = [
            {"role": m.role, "content": kind.defuse(m.content)}
            for m, kind in zip(messages, kinds, strict=True)
        ]
        if instructions:
            turns[-1]["content"] = self._joined(turns[-1]["content"], " ".join(instructions))
        try:
            self._check_kept(tuple(m.role for m in messages))
            return self._fill(turns) + self._beginning
        except _RefusalError as error:
            raise RequestError(f"The chat template refuses this conversation: {error}.") from error

    def _check_kept(self, roles: tuple[str, ...]) -> None:
        """Raises RequestError: of turns of these roles the template leaves one out.

        It raises _RefusalError where short ones take too long: the turns themselves would, too.
        """
        if roles in self._kept:
            return
        words = [f"mpd{k}z" for k in range(len(roles))]
        turns = [{"role": r, "content": w} for r, w in zip(roles, words, strict=True)]
        try:
            text = self._fill(turns).casefold()
        except _RefusalError as error:
            if isinstance(error.__cause__, TimeoutError):
                raise
            text = "".join(words)  # the turns themselves will be refused, too
        for k, (role, word) in enumerate(zip(roles, words, strict=True), 1):
            if word not in text:
                raise RequestError(
                    f"The chat template leaves out turn {k}, the {role}'s: send the conversation "
                    "without it, or write another template in pack.toml."
                )
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
        self._kept.add(roles)

    def _fill(self, turns: Sequence[Mapping[str, str]], *, begun: bool = True) -> str:
        def fill() -> str:
            text: str = self._tokenizer.apply_chat_template(
                list(turns), chat_template=self._chat, tokenize=False, add_generation_prompt=begun
            )
            return text

        try:
            return fill() if self._tame else bounds.within(bounds.PATIENCE_S, fill)
        except Exception as error:  # a template is a program of its own, and may fail in any way
            raise _RefusalError(one_line(error).rstrip(".")) from error

    def _ids(self, text: str) -> list[int]:
        with reading():
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _written(self) -> frozenset[int]:
        user, reply = {"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}
        try:
            text = self._fill([user])
        except _RefusalError as error:
            raise PackError(
                f"template.chat: the chat template fails on a user's message: {error}; correct "
                "it, or write another one in pack.toml."
            ) from error
        if PROBE not in text.casefold():
            raise PackError(
                "template.chat: the chat template leaves the user's message out; correct it, or "
                "write another one in pack.toml."
            )
        with suppress(_RefusalError):  # made for one turn: a second is refused when asked for
            text += self._fill([user, reply, user])
        ids = self._ids(text)
        whole = self._tokenizer(text, add_special_tokens=False, split_special_tokens=False)
        if ids != list(whole["input_ids"]):
            raise PackError(
                "tokenizer_config.json: with split_special_tokens the markers of the chat template "
                "are read letter by letter, which no model learned: set it to false."
            )
        return frozenset(ids)

    def _left_to_begin(self) -> str:
        """What replies begin after, where a template does not end in it for all that is said.

        Some know nothing of ``add_generation_prompt``, and write a role's markers only before what
        it says: the model would have to begin with them, and the role would be in the text.
        """
        user, reply = {"role": "user", "content": "u"}, {"role": "assistant", "content": PROBE}
        with suppress(_RefusalError):
            prompt, whole = self._fill([user]), self._fill([user, reply])
            between, found, _ = whole.removeprefix(prompt).partition(PROBE)
            added = self._tokenizer.added_tokens_decoder
            marked = any(i in added and added[i].special for i in self._ids(between))
            ignored = prompt == self._fill([user], begun=False)
            if marked and ignored and found and whole.startswith(prompt):
                return between.rstrip(" ")  # a reply's first token brings the blank before a word
        return ""

    def _joined(self, instruction: str, preference: str) -> str:
        # Filled by position, not by repeated replacement: user text may hold "{preference}".
        values = {"{instruction}": instruction, "{preference}": preference}
        template = self._template.preference
        first, second = sorted(values, key=template.index)
        before, rest = template.split(first)
        between, after = rest.split(second)
        return before + values[first] + between + values[second] + after


def _check_steady(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises PackError: tokens are drawn at random, and experts would read different ones."""
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if getattr(model, "dropout", None):
        raise PackError(
            "tokenizer.json: its model's dropout splits words at random, which is for training: "
            "set it to null."
        )


class _RefusalError(MPDError):
    """A template that raised: its reason in one line."""


def _chosen(tokenizer: PreTrainedTokenizerBase, chat: str | None) -> str:
    """The pack's template, one that it names among the tokenizer's, or the tokenizer's default."""
    own = tokenizer.chat_template
    if not chat and not own:
        raise PackError("template.chat: the tokenizer brings no chat template; write one.")
    named = own if isinstance(own, dict) else {"default": own}
    chosen = named.get(chat or "default") or chat
    if not chosen:
        raise PackError(
            f"template.chat: the tokenizer brings the templates {', '.join(sorted(named))} and no "
            "default: name one of them."
        )
    return str(chosen).removeprefix(BOM)
