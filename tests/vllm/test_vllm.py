"""Remote experts on the engine that users will run: a real vLLM server with LoRA modules.

Opt-in, for it takes minutes: ``make test-vllm``, or MPD_TEST_VLLM=1 in the environment.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import tomlkit
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from mpd_core.engine import Engine
from mpd_core.method.merging import merge_probabilities
from mpd_core.packs import Pack, RemoteTable, load_pack
from mpd_core.prompts import PromptRenderer
from mpd_core.remote.expert import RemoteAnswer, RemoteError, RemoteExpert
from mpd_core.request import GenerationRequest, Message
from mpd_core.sources.obtain import obtain
from mpd_core.trace import Trace
from tests.vllm.server import MAX_LOGPROBS, vllm_serve

pytestmark = [
    pytest.mark.skipif(os.environ.get("MPD_TEST_VLLM") != "1", reason="needs MPD_TEST_VLLM=1"),
    pytest.mark.timeout(1800),
]

TOLERANCE = 1e-3  # of a log-probability: both sides compute in fp32, in another order (seen: 6e-5)
ADAPTERS = {"one": 4, "two": 8}  # name to rank
NAMES = ("base", *ADAPTERS)
AWAY = ("elementary", "concise")  # poles of the default pack that the server has, too
LONG = "Explain this: " + "Plants make sugar out of light, air and water. " * 25
INSTRUCTIONS = ("Explain photosynthesis.", "What is 你好? 😀", LONG)
NEW_TOKENS = 16


@pytest.fixture(scope="module")
def base() -> Path:
    pack = load_pack("smollm2-135m")
    return obtain(pack, pack.spec.base.source)


@pytest.fixture(scope="module")
def models(base: Path, tmp_path_factory: pytest.TempPathFactory) -> PeftModel:
    """The base with two random adapters that change it visibly, saved by name."""
    folder = tmp_path_factory.mktemp("adapters")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(0)
    for name, rank in ADAPTERS.items():
        config = LoraConfig(r=rank, target_modules=["q_proj", "v_proj", "down_proj"])
        if isinstance(model, PeftModel):
            model.add_adapter(name, config)
        else:
            model = get_peft_model(model, config, adapter_name=name)
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.01)
    model.save_pretrained(folder)
    model.folder = folder
    return model.eval()


@pytest.fixture(scope="module")
def prompts(base: Path) -> list[list[int]]:
    """Chat prompts of different lengths, up to 300 tokens; after the last one a reply ends."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    renderer = PromptRenderer(tokenizer, load_pack("smollm2-135m").spec.template)
    rows = [renderer.render([Message("user", text)]) for text in INSTRUCTIONS]
    reply = tokenizer("The capital of France is Paris.", add_special_tokens=False)["input_ids"]
    ending = renderer.render([Message("user", "What is the capital of France?")]) + reply
    return [*rows, ending]


@pytest.fixture(scope="module")
def server(
    base: Path, models: PeftModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Address of one server of the base, the random adapters and two of the default pack's."""
    pack = load_pack("smollm2-135m")
    trained = {pole: pack.path(pack.spec.experts.adapters[pole].folder) for pole in AWAY}
    folders = trained | {name: models.folder / name for name in ADAPTERS}
    with vllm_serve(base, folders, tmp_path_factory.mktemp("vllm") / "server.log") as url:
        yield url


@pytest.fixture(scope="module")
def experts(server: str, models: PeftModel) -> Iterator[dict[str, RemoteExpert]]:
    """A client of the base and of each random adapter."""
    spec = {"url": server, "top_k": MAX_LOGPROBS, "timeout_s": 60}
    vocab_size = models.config.vocab_size
    clients = {n: RemoteExpert(n, RemoteTable(**spec, model=n), vocab_size) for n in NAMES}
    yield clients
    for client in clients.values():
        client.close()


@torch.inference_mode()
def local(models: PeftModel, name: str, prompt: list[int]) -> Tensor:
    """Log-probabilities after a prompt from transformers and PEFT, [V]."""
    tokens = torch.tensor([prompt])
    if name == "base":
        with models.disable_adapter():
            logits = models(tokens).logits
    else:
        models.set_adapter(name)
        logits = models(tokens).logits
    return logits[0, -1].float().log_softmax(-1)


def compare(answer: RemoteAnswer, exact: Tensor) -> float:
    """Largest error on listed tokens; and the answer is a distribution with the same mode."""
    mass = float(exact.exp()[answer.listed].sum())
    assert answer.missing == pytest.approx(1 - mass, abs=TOLERANCE)
    assert answer.log_probs.exp().sum() == pytest.approx(1, abs=1e-4)
    assert answer.log_probs.argmax() == exact.argmax()
    return float((answer.log_probs - exact)[answer.listed].abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_listed_tokens_equal_transformers_and_peft(
    experts: dict[str, RemoteExpert], models: PeftModel, prompts: list[list[int]], name: str
) -> None:
    exact = [local(models, name, prompt) for prompt in prompts]
    for _ in range(2):  # the second time the long one is in the server's prefix cache
        answers = experts[name].log_probs(prompts)
        errors = [compare(*pair) for pair in zip(answers, exact, strict=True)]
        missing = max(answer.missing for answer in answers)
        print(f"{name}: error {max(errors):.1e}, missing up to {missing:.3f}")
        assert max(errors) < TOLERANCE
    if name == "base":
        end_of_turn = models.config.eos_token_id
        assert int(exact[-1].argmax()) == end_of_turn  # which is listed like any other token


def test_adapters_differ(models: PeftModel, prompts: list[list[int]]) -> None:
    """Otherwise a server that ignores the LoRA module would pass."""
    rows = [local(models, name, prompts[0]) for name in NAMES]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (rows[a] - rows[b]).abs().max() > 100 * TOLERANCE


def greedy(ask: Callable[[str, list[int]], Tensor], prompt: list[int]) -> list[int]:
    """Tokens of a reply merged from all three experts with equal weights."""
    weights, tokens = torch.full((len(NAMES),), 1 / len(NAMES)), list[int]()
    for _ in range(NEW_TOKENS):
        rows = torch.stack([ask(name, prompt + tokens) for name in NAMES])
        tokens.append(int(merge_probabilities(rows, weights).argmax()))
    return tokens


def test_merged_stream_is_the_local_one(
    experts: dict[str, RemoteExpert], models: PeftModel, prompts: list[list[int]]
) -> None:
    def remotely(name: str, prompt: list[int]) -> Tensor:
        return experts[name].log_probs([prompt])[0].log_probs

    def here(name: str, prompt: list[int]) -> Tensor:
        return local(models, name, prompt)

    assert greedy(remotely, prompts[0]) == greedy(here, prompts[0])


def away(folder: Path, url: str) -> Pack:
    """The default pack with some of its experts on a server, the others and the PCM here."""
    shutil.copytree(load_pack("smollm2-135m").folder, folder)
    document = tomlkit.parse((folder / "pack.toml").read_text(encoding="utf-8"))
    tables = document["experts"]
    tables["remotes"] = {}
    for pole in AWAY:
        del tables["adapters"][pole]
        tables["remotes"][pole] = {"url": url, "model": pole, "top_k": MAX_LOGPROBS}
    (folder / "pack.toml").write_text(tomlkit.dumps(document), encoding="utf-8")
    return load_pack(folder)


def write(pack: Pack, requests: list[GenerationRequest]) -> list[Trace]:
    """All at once, by an engine in the server's precision."""
    engine = Engine.open(pack, precision="fp32")
    try:
        streams = [engine.submit(request) for request in requests]
        for stream in streams:
            list(stream)
        return [stream.trace() for stream in streams]
    finally:
        engine.close()


def test_an_engine_whose_experts_are_elsewhere_writes_what_a_local_one_writes(
    server: str, tmp_path: Path
) -> None:
    """The trained pack, greedily: equal tokens; listed log-probabilities and weights agree."""
    pack = load_pack("smollm2-135m")
    sampling = pack.spec.decode.sampling(max_new_tokens=2 * NEW_TOKENS)
    requests = [
        GenerationRequest((Message("user", text),), code, "mpd", sampling=sampling)
        for text, code in ((INSTRUCTIONS[0], "AAA"), (INSTRUCTIONS[1], "BAB"), (LONG, "ABA"))
    ]
    here, there = write(pack, requests), write(away(tmp_path / "pack", server), requests)
    errors, missing = [], []
    for local_trace, trace in zip(here, there, strict=True):
        assert trace.text == local_trace.text
        for step, exact in zip(trace.steps, local_trace.steps, strict=True):
            assert step.token_id == exact.token_id
            assert step.weights == pytest.approx(exact.weights, abs=TOLERANCE)
            missing += step.missing.values()
            for pole, said in exact.logprobs.items():
                if math.exp(said) > step.missing.get(pole, 0.0):  # then the server listed it
                    errors.append(abs(step.logprobs[pole] - said))
    print(f"engine: error {max(errors):.1e}, missing up to {max(missing):.3f}")
    assert max(errors) < TOLERANCE


def test_refusals_of_a_real_server(experts: dict[str, RemoteExpert]) -> None:
    spec, vocab_size = experts["one"].spec, experts["one"].vocab_size
    cases = (
        ({"model": "nobody"}, "does not know the model"),
        ({"top_k": MAX_LOGPROBS + 1}, "refused the request .status 400.*logprobs"),
        ({"url": spec.url.replace("/v1", "/v2")}, "does not know the model or the path"),
    )
    for change, message in cases:
        changed = spec.model_copy(update=change)
        with closing(RemoteExpert("one", changed, vocab_size)) as expert:
            with pytest.raises(RemoteError, match=message) as error:
                expert.log_probs([[1, 2, 3]])
            print(error.value)
    with pytest.raises(RemoteError, match=r"refused the request .status 400"):
        experts["one"].log_probs([[1] * 2000])  # longer than its --max-model-len
