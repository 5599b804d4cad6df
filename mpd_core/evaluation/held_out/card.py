"""The model card of a pack, written from what it holds and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpd_core.evaluation.held_out.figures import text
from mpd_core.packs import Pack
from mpd_core.training import recipe

FILE = "README.md"
MEGABYTE = 1e6
TEMPLATE = """# {title}

{description}

- Base: {base} ({licence}), frozen, not in this folder.
- Experts: {experts} LoRA adapters ({poles}).
- Anchor of the space `strength`: {anchor}.
- Reward models: {rewards}, for training and evaluation; serving does not load them.
- Preference Control Model: {pcm}.
- All adapters together: {megabytes:.1f} MB of safetensors, fp16. `pack.toml` names their SHA-256.

## Data

{data}: written for this project, Apache-2.0. Splits are by prompt; nothing of the test
split was used for training or for choosing settings. Data of third parties is never trained on.

## Settings

`{recipe}` beside this file, in full. To repeat everything:

    make train ARGS='all --pack {name} --resume'
    make train ARGS='install --pack {name}'
    make train ARGS='report --pack {name} --recompute'

## Figures

On prompts of the test split, greedy decoding under the pack's own settings. Rewards are those of
the reward models above{learned}: a gain says that training worked, not that people would
agree. Readability, length and sentiment are computed without any of these models.

```
{measured}
```

## Limits

- The base has few parameters: replies are fluent, and often wrong in fact, more so in the
  knowledgeable style, whose vocabulary it imitates.
- English only; one turn at a time was trained.
- The unfriendly style is rude on purpose, and made for showing how preferences are merged.

## Licence

Apache-2.0, like the code, the data and the base.
"""


def write(pack: Pack, figures: Mapping[str, Any]) -> Path:
    """Write the card beside the pack; figures that are not known are not in it."""
    spec = pack.spec
    card = TEMPLATE.format(
        title=spec.title,
        description=spec.description,
        name=spec.name,
        base=spec.base.name,
        licence=spec.base.license or "see its own card",
        experts=len(spec.experts.adapters),
        poles=", ".join(spec.experts.adapters),
        anchor="the adapter that experts went on from" if spec.experts.anchor else "the bare base",
        rewards="one adapter with a score a pole" if spec.rewards else "none",
        pcm=_pcm(pack),
        learned=", which the PCM was trained on" if pack.trained else "",
        megabytes=_bytes(pack) / MEGABYTE,
        data=_data(recipe.load_recipe(pack).data),
        recipe=recipe.FILE,
        measured=text(figures) if figures else "Nothing has been measured yet.",
    )
    file = pack.folder / FILE
    file.write_text(card, encoding="utf-8")
    return file


def _pcm(pack: Pack) -> str:
    if not pack.trained:
        return "untrained: it weighs uniformly"
    where = "on the base" if pack.spec.pcm.backbone == "base" else "on a backbone of its own"
    return f"LoRA and a weight head {where}, trained by this project"


def _data(data: recipe.DataSpec) -> str:
    taught = f", and `{data.experts.name}`, which experts learn from" if data.experts else ""
    return f"`{data.file.name}`{taught}"


def _bytes(pack: Pack) -> int:
    spec = pack.spec
    others = (spec.experts.anchor, spec.rewards, spec.pcm.adapter)
    adapters = [*spec.experts.adapters.values(), *(adapter for adapter in others if adapter)]
    folders = [pack.path(adapter.folder) for adapter in adapters]
    return sum(file.stat().st_size for folder in folders for file in folder.iterdir())
