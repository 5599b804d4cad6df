"""An OpenAI-compatible chat server for tests: answers by rule, and misbehaves when told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Rule = Callable[[str], str]


class JudgeServer(ThreadingHTTPServer):
    """Answers every chat with what ``rule`` makes of its last message."""

    daemon_threads = True

    def __init__(self, rule: Rule) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.rule = rule
        self.asked: list[dict[str, Any]] = []
        self.faults: list[tuple[str, Any]] = []
        """One an answer, the first for the next: ``status``, ``body``, ``slow``, ``usage``, and
        ``trickle``: a byte every so many seconds, of the head or, below 0, of the body."""
        self.always: tuple[str, Any] | None = None
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def fault(self, body: dict[str, Any]) -> tuple[str, Any]:
        with self.lock:
            self.asked.append(body)
            if self.faults:
                return self.faults.pop(0)
            return self.always or ("", None)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: JudgeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body["authorization"] = self.headers.get("Authorization")
        name, value = self.server.fault(body)
        if name == "slow":
            time.sleep(value)
        if name == "trickle":
            self.trickle(value)
            return
        if name == "status":
            self.reply(value, b'{"error": {"message": "told to"}}')
            return
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        if name == "usage":
            usage = value
        said = value if name == "said" else self.server.rule(body["messages"][-1]["content"])
        answer = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": said},
                }
            ],
            "usage": usage,
        }
        self.reply(200, value if name == "body" else json.dumps(answer).encode())

    def reply(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        try:
            self.wfile.write(content)
        except OSError:
            return  # who asked has given up

    def trickle(self, pause: float) -> None:
        """For as long as anybody listens."""
        self.send_response(200)
        if pause < 0:
            self.send_header("Content-Length", "1000000")
            self.end_headers()
        self.wfile.flush()
        try:
            while True:
                self.wfile.write(b" " if pause < 0 else b"x")
                self.wfile.flush()
                time.sleep(abs(pause))
        except OSError:
            return

    def log_message(self, *args: Any) -> None:
        del args
