"""A method and a preference, as expert calls: MPD and its baselines differ in nothing else.

A call is one row: the frozen base, perhaps with an adapter, reading the conversation, perhaps with
preference sentences. All methods run in the same engine under the same decode setting.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mpd_core.errors import RequestError
from mpd_core.method.preferences import Pole, Preference
from mpd_core.method.static import STATIC, is_simplex, uniform, weights_in
from mpd_core.packs import Pack
from mpd_core.request import Space

ONE_EXPERT, TOP = "expert:", "top-1"
BASE, PCM, TRUNK = "base", "pcm", "trunk"
PLAIN, ANCHOR = "plain", "anchor"
METHODS = {
    "mpd": "MPD: weights anew at every token",
    "uniform": "MPD uniform: equal weights",
    TOP: "MPD top-1: only the expert with the largest weight",
    STATIC: "MPD static: the pack's best constant weights",
    "soup": "Personalized soup: adapters averaged",
    "prompting": "Preference prompting: the base, all instructions",
    "vanilla": "Vanilla prompting: the base alone",
}
"""All but the single experts, with what people call them."""
AS_IT_IS = ("prompting", "vanilla")
"""The base alone, in whatever space: baselines, whose own distribution nothing shifts."""
METHOD_HELP = f"{', '.join(METHODS)}, static:0.5,0.3,0.2 or expert:NAME."


@dataclass(frozen=True)
class ExpertCall:
    """One next-token distribution: who gives it and what it reads."""

    name: str
    model: str = BASE
    """Who computes it: ``base``, ``pcm`` for a PCM with a backbone of its own, the name of an
    expert that is a model of its own, or ``trunk``, the base's lower layers where shared."""
    remote: bool = False
    """Asked of a server elsewhere."""
    adapters: tuple[tuple[str, float], ...] = ()
    """LoRA adapters on the model with their weights; () is the bare model."""
    instructions: tuple[str, ...] = ()
    """Preference sentences in its prompt."""


@dataclass(frozen=True)
class ExpertPlan:
    """The experts of a request, and the PCM that weighs them (None: constant weights)."""

    experts: tuple[ExpertCall, ...]
    pcm: ExpertCall | None = None
    poles: tuple[int, ...] = ()
    """Index of each expert's pole in the PCM's head."""
    constant: tuple[float, ...] = ()
    """Weights of the experts where there is no PCM; () is uniform."""
    anchors: tuple[ExpertCall, ...] = ()
    """In the space ``strength``: what they move, and, where it is another, what from."""
    top: bool = False
    """Only the expert with the largest weight counts at each token; the first of them on a draw."""

    @property
    def fixed(self) -> tuple[float, ...]:
        """One constant weight an expert."""
        return self.constant or uniform(len(self.experts))


def method_names(pack: Pack) -> tuple[str, ...]:
    """Every named method that a pack can run; ``expert:NAME`` is one expert on its own.

    Beside these, ``static:0.5,0.3,0.2`` merges with any constant weights. ``top-1`` needs a trained
    PCM: an untrained one weighs all alike, and none of them is the first.
    """
    lacking = {STATIC: not pack.spec.static, "soup": not has_soup(pack), TOP: not pack.trained}
    singles = (f"{ONE_EXPERT}{pole.name}" for pole in pack.space.poles)
    return (*(name for name in METHODS if not lacking.get(name)), *singles)


def plan_request(
    pack: Pack, preference: Preference, method: str, space: Space = "probability"
) -> ExpertPlan:
    """Who runs for this method and preference, merged in this space.

    Raises:
        RequestError: unknown method, or a preference that chooses nothing where one is needed.
    """
    plan = _plan(pack, preference, method)
    if space != "strength" or method in AS_IT_IS:
        return plan
    return replace(plan, anchors=_anchors(pack))


def _plan(pack: Pack, preference: Preference, method: str) -> ExpertPlan:
    written = weights_in(method) is not None
    if not written and method not in method_names(pack):
        known = ", ".join(method_names(pack))
        raise RequestError(f"Unknown method '{method[:60]}': use one of {known}.")
    if method == "vanilla":
        return ExpertPlan((ExpertCall(BASE),))
    if method.startswith(ONE_EXPERT):
        name = method.removeprefix(ONE_EXPERT)
        return ExpertPlan(tuple(_expert(pack, p) for p in pack.space.poles if p.name == name))
    if not preference.poles:
        raise RequestError(f"Method '{method}' needs at least one dimension: choose a pole.")
    instructions = tuple(pole.instruction for pole in preference.poles)
    if method == "prompting":
        return ExpertPlan((ExpertCall(BASE, instructions=instructions),))
    if method == "soup":
        names = [pole.name for pole in preference.poles]
        mix = tuple(zip(names, uniform(len(names)), strict=True))
        if pack.spec.experts.soup == "factors":
            mix = (("+".join(names), 1.0),)
        return ExpertPlan((ExpertCall("soup", adapters=mix, instructions=instructions),))
    experts = tuple(_expert(pack, pole) for pole in preference.poles)
    if method == "uniform":
        return ExpertPlan(experts)
    if method == STATIC or written:
        return ExpertPlan(experts, constant=_constant(pack, preference, method))
    spec, indices = pack.spec.pcm, tuple(pack.space.poles.index(p) for p in preference.poles)
    adapters = ((PCM, 1.0),) if spec.adapter else ()
    model = BASE if spec.backbone == "base" else PCM
    pcm = ExpertCall(PCM, model, adapters=adapters, instructions=instructions)
    return ExpertPlan(experts, pcm, indices, top=method == TOP)


def _constant(pack: Pack, preference: Preference, method: str) -> tuple[float, ...]:
    """The pack's own static weights for a preference, or those that stand in the method's name."""
    if method == STATIC:
        if preference.code not in pack.spec.static:
            raise RequestError(f"The pack has no static weights for '{preference.code}'.")
        return pack.spec.static[preference.code]
    weights = weights_in(method) or ()
    if not is_simplex(weights, len(preference.poles)):
        raise RequestError(
            f"Method '{method[:60]}': give {len(preference.poles)} weights from 0 to 1, one for "
            "each chosen pole, that add up to 1."
        )
    return weights


def _anchors(pack: Pack) -> tuple[ExpertCall, ...]:
    """z_0, which reads what the user wrote, and, where it is another, the pack's anchor."""
    experts = pack.spec.experts
    if experts.anchor is None:
        return (ExpertCall(PLAIN),)
    begin = ExpertCall(PLAIN, adapters=((ANCHOR, experts.prior),) if experts.prior else ())
    same = experts.prior == 1.0
    return (begin,) if same else (begin, ExpertCall(ANCHOR, adapters=((ANCHOR, 1.0),)))


def has_soup(pack: Pack) -> bool:
    """A soup merges parameters: every expert must be an adapter of the base."""
    return all(pole.name in pack.spec.experts.adapters for pole in pack.space.poles)


def _expert(pack: Pack, pole: Pole) -> ExpertCall:
    spec = pack.spec.experts
    instructions = (pole.instruction,) if spec.prompt == "own" else ()
    if pole.name in spec.remotes:
        return ExpertCall(pole.name, remote=True, instructions=instructions)
    model = pole.name if pole.name in spec.checkpoints else BASE
    adapters = ((pole.name, 1.0),) if pole.name in spec.adapters else ()
    return ExpertCall(pole.name, model, adapters=adapters, instructions=instructions)
