"""MPD Studio: personalised text generation by Merged Preference Dimensions.

    from mpd_core import Engine, load_pack

    pack = load_pack()
    with Engine.open(pack) as engine:
        for step in engine.submit(pack.request("Why is the sky blue?", "AAB")):
            print(step.text, step.weights)

These names are public; the rest is each folder's own.
"""

from typing import TYPE_CHECKING, Any

from mpd_core.errors import MPDError
from mpd_core.packs import Pack, load_pack
from mpd_core.request import GenerationRequest, Message, Sampling
from mpd_core.trace import StepRecord, Trace

if TYPE_CHECKING:
    from mpd_core.engine import Engine, Stream

__version__ = "0.1.0"
__all__ = [
    "Engine",
    "GenerationRequest",
    "MPDError",
    "Message",
    "Pack",
    "Sampling",
    "StepRecord",
    "Stream",
    "Trace",
    "load_pack",
]


def __getattr__(name: str) -> Any:
    """What needs torch is imported when it is asked for."""
    if name not in ("Engine", "Stream"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mpd_core import engine

    return getattr(engine, name)
