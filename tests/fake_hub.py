"""The few answers of the Hugging Face hub that a download needs, served from memory."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "1" * 40


@contextmanager
def fake_hub(repo: str, files: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Serve one repository; yields the address and the list of files that were fetched."""
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = self.path.split("?")[0]
            name = path.rpartition(f"/resolve/{COMMIT}/")[2] or path
            name = path.rpartition("/resolve/main/")[2] if "/resolve/main/" in path else name
            if path == "/":
                self.reply(b"", body)
            elif path.startswith(f"/api/models/{repo}/tree/"):
                self.reply(json.dumps([entry(name) for name in files]).encode(), body)
            elif path.startswith(f"/api/models/{repo}"):
                siblings = [{"rfilename": n, "size": len(files[n])} for n in files]
                info = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings}
                self.reply(json.dumps(info).encode(), body)
            elif f"{repo}/resolve/" in path and name in files:
                if body:
                    fetched.append(name)
                self.reply(files[name], body)
            else:
                self.send_error(404)

        def reply(self, content: bytes, body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    def entry(name: str) -> dict[str, object]:
        oid = hashlib.sha1(files[name]).hexdigest()
        return {"type": "file", "path": name, "size": len(files[name]), "oid": oid}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
