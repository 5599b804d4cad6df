"""The engine: requests in, streams of step records out; many requests, one batched forward.

``engine.py`` has the loop: schedule, run, postprocess. A request becomes an expert plan
(``plan.py``), then a sequence of rows (``sequence.py``); ``scheduler.py`` admits it, ``runner.py``
computes it, ``records.py`` writes what comes of it, step by step.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpd_core.engine.build import EngineInfo
    from mpd_core.engine.engine import Engine
    from mpd_core.engine.stream import Stream

__all__ = ["Engine", "EngineInfo", "Stream"]


def __getattr__(name: str) -> Any:
    """Imported when asked for: plans are made, and mistakes told, without waiting for torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mpd_core.engine import build, engine, stream

    return {"Engine": engine.Engine, "EngineInfo": build.EngineInfo, "Stream": stream.Stream}[name]
