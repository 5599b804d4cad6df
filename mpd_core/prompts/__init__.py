"""From a conversation to token ids, and back from token ids to text. Templates live only here."""

from mpd_core.prompts.renderer import PromptRenderer
from mpd_core.prompts.streaming import StreamDecoder, name_tokens

__all__ = ["PromptRenderer", "StreamDecoder", "name_tokens"]
