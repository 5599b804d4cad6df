"""A small completion server with a real model, that can be told to misbehave. Own process.

``python -m tests.remote_server FOLDER --adapter name=folder`` prints its port, then answers
``/v1/completions`` as vLLM does: the base under ``base``, each PEFT adapter under its name.
``POST /control`` sets the fault of the answers to come, ``GET /control`` says what was asked.
"""

from __future__ import annotations

import argparse
import json
import ssl
import threading
import time
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

Listing = list[tuple[str, str]]  # key and JSON literal, so that an answer can be invalid JSON


class Model:
    """A base with adapters; one forward at a time."""

    def __init__(self, folder: str, adapters: dict[str, str]) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder).eval()
        for name, path in adapters.items():
            if isinstance(self._model, PeftModel):
                self._model.load_adapter(path, adapter_name=name)
            else:
                self._model = PeftModel.from_pretrained(self._model, path, adapter_name=name)
        self._model.eval()
        self._lock = threading.Lock()
        self.names = ("base", *adapters)
        self.vocab_size = self._model.config.vocab_size

    @torch.inference_mode()
    def log_probs(self, name: str, prompt: list[int]) -> torch.Tensor:
        """Of the token after the prompt, [V]; no batch, no cache."""
        with self._lock:
            bare = name == "base" and isinstance(self._model, PeftModel)
            if name != "base":
                self._model.set_adapter(name)
            with self._model.disable_adapter() if bare else nullcontext():
                return self._model(torch.tensor([prompt])).logits[0, -1].float().log_softmax(-1)


def listing(log_probs: torch.Tensor, body: dict[str, Any], fault: dict[str, Any]) -> Listing:
    """The top K."""
    top = log_probs.topk(body["logprobs"], largest=fault.get("name") != "least_likely")
    ids = top.indices.tolist()
    pairs = [(f"token_id:{i}", repr(float(log_probs[i]))) for i in ids]
    return distort(pairs, fault)


def distort(pairs: Listing, fault: dict[str, Any]) -> Listing:
    """The lies that a listing can tell."""
    name = fault.get("name")
    if name == "key":  # the first token under another name
        return [(fault["key"], pairs[0][1]), *pairs[1:]]
    if name == "value":  # the first token with another JSON literal
        return [(pairs[0][0], fault["value"]), *pairs[1:]]
    if name == "above_one":
        return [(key, "-0.01") for key, _ in pairs]
    if name == "twice":
        return [*pairs, pairs[0]]
    return pairs[: len(pairs) // 2] if name == "few" else pairs


def completion(model: Model, body: dict[str, Any], fault: dict[str, Any]) -> bytes:
    """The JSON of an answer."""
    name, choices = fault.get("name"), []
    for index, prompt in enumerate(body["prompt"]):
        pairs = listing(model.log_probs(body["model"], prompt), body, fault)
        top = "{" + ",".join(f'"{key}":{value}' for key, value in pairs) + "}"
        logprobs = "null" if name == "no_logprobs" else f'{{"top_logprobs":[{top}]}}'
        choices.append(f'{{"index":{index},"text":"?","logprobs":{logprobs}}}')
    if name == "missing":
        choices.pop()
    if name == "same_index":
        choices[-1] = choices[0]
    if name == "shuffled":
        choices.reverse()
    text = f'{{"object":"text_completion","choices":[{",".join(choices)}]}}'
    if name == "truncated":
        text = text[: len(text) // 2]
    return fault["body"].encode() if name == "body" else text.encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.reply(200, json.dumps(self.server.asked).encode())

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(data)
        if self.path == "/control":
            self.server.control(body)
            self.reply(200, b"{}")
            return
        refusal = self.server.refusal(self.path, self.headers.get("Authorization"), body)
        fault = self.server.take_fault(body.get("model"))
        self.server.note(self, body, fault)
        if refusal:
            self.fail(*refusal)
        else:
            self.misbehave(fault, body)

    def misbehave(self, fault: dict[str, Any], body: dict[str, Any]) -> None:
        """Answer; faults of the connection are here, those of the content in ``completion``."""
        name = fault.get("name")
        if name == "slow":
            time.sleep(fault["seconds"])
        if name == "status":
            headers = {"Retry-After": fault["retry_after"]} if "retry_after" in fault else {}
            headers |= {"Location": fault["location"]} if "location" in fault else {}
            self.fail(fault["status"], fault.get("message", "out of order"), headers)
        elif name == "hang_up":
            self.close_connection = True
        elif name == "huge":
            self.reply(200, b" " * 1_000_000, repeat=fault["megabytes"])
        else:
            self.answer(completion(self.server.model, body, fault), fault)

    def answer(self, content: bytes, fault: dict[str, Any]) -> None:
        name = fault.get("name")
        if name == "dead":
            self.reply(200, content, sent=content[: len(content) // 2])
            self.close_connection = True
        elif name == "drip":  # never pauses for long, never ends
            for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000:
                self.wfile.write(bytes([byte]))
                time.sleep(0.02)
        else:
            headers = {"Content-Encoding": "gzip"} if name == "gzip" else {}
            self.reply(200, content, headers=headers)

    def fail(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        error = {"error": {"message": message, "type": "error", "code": status}}
        self.reply(status, json.dumps(error).encode(), headers=headers)

    def reply(
        self,
        status: int,
        content: bytes,
        *,
        headers: dict[str, str] | None = None,
        sent: bytes | None = None,
        repeat: int = 1,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) * repeat))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        for _ in range(repeat):
            self.wfile.write(content if sent is None else sent)

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, model: Model, key: str | None, max_logprobs: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self._key, self._max = model, key, max_logprobs
        self._lock, self._faults = threading.Lock(), list[dict[str, Any]]()
        self.asked: list[dict[str, Any]] = []

    def control(self, fault: dict[str, Any]) -> None:
        """Add a fault; one without a name heals everything and forgets what was asked."""
        with self._lock:
            if "name" in fault:
                self._faults.append(fault)
            else:
                self._faults, self.asked = [], []

    def take_fault(self, model: str | None) -> dict[str, Any]:
        """The fault for this request: the first one for its model that has not been used up."""
        with self._lock:
            for fault in self._faults:
                if fault.get("model") in (None, model) and fault.get("times") != 0:
                    if "times" in fault:
                        fault["times"] -= 1
                    return fault
        return {}

    def note(self, request: Handler, body: dict[str, Any], fault: dict[str, Any]) -> None:
        with self._lock:
            self.asked.append(
                {
                    **body,
                    "authorization": request.headers.get("Authorization"),
                    "client": request.client_address[1],
                    "fault": fault.get("name"),
                }
            )

    def refusal(
        self, path: str, authorization: str | None, body: dict[str, Any]
    ) -> tuple[int, str] | None:
        """Status and message with which vLLM would refuse this request."""
        if path != "/v1/completions":
            return 404, "Not Found"
        if self._key and authorization != f"Bearer {self._key}":
            return 401, f"Unauthorized: {authorization}"
        if body["model"] not in self.model.names:
            return 404, f"The model `{body['model']}` does not exist."
        if body["logprobs"] > self._max:
            wanted = body["logprobs"]
            return 400, f"Requested sample logprobs of {wanted}, greater than max: {self._max}"
        return None

    def handle_error(self, *_: object) -> None:
        """A client that has given up is no news."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--adapter", action="append", default=[])
    parser.add_argument("--key")
    parser.add_argument("--max-logprobs", type=int, default=1000)
    parser.add_argument("--certificate", nargs=2, metavar=("PEM", "KEY"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = Model(options.folder, dict(pair.split("=", 1) for pair in options.adapter))
    server = Server(model, options.key, options.max_logprobs)
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*options.certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
