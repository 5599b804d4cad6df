"""The engine: requests in, streams of step records out; many requests, one batched forward."""

from mpd_core.engine.build import EngineInfo
from mpd_core.engine.engine import Engine
from mpd_core.engine.stream import Stream

__all__ = ["Engine", "EngineInfo", "Stream"]
