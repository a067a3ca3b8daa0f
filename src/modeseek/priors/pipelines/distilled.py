"""The guidance scale that a model was trained for.

The scale used where none is given is the default of the pipeline's own `__call__` (7.5 for Stable Diffusion, 5 for SDXL, 3.5 for Flux
dev). Models that were distilled to be sampled without guidance have no flag that says so. They are recognised by their scheduler (LCM,
TCD), by an active LoRA, or by their name: SDXL-Turbo, SDXL-Lightning, Hyper-SD, LCM, Flux schnell. Their default is 1, no guidance.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

DISTILLED_SCHEDULERS = ("LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler", "SCMScheduler")
DISTILLED_NAMES = re.compile(
    r"(?<![a-z])(turbo|lightning|lcm|schnell|hyper[-_]?sd|hyper|dmd2?|pcm|tcd|sdxs|instaflow|flash|distill(ed)?)(?![a-z])"
)


def pipeline_guidance(pipeline: Any) -> float:
    """The default guidance scale of the pipeline's `__call__`; 1 where it has none."""
    settings = inspect.signature(type(pipeline).__call__).parameters
    for name in ("true_cfg_scale", "guidance_scale"):
        value = settings[name].default if name in settings else None
        if isinstance(value, int | float) and value > 1:
            return float(value)
    return 1.0


def distillation(pipeline: Any, network: Any, *names: str) -> str | None:
    """Why a model is treated as distilled to need no guidance; None if it is not.

    Args:
        pipeline: with its scheduler and adapters.
        network: the denoising network.
        names: of its folder or file.

    Example:
        >>> bool(DISTILLED_NAMES.search("stabilityai/sdxl-turbo")), bool(DISTILLED_NAMES.search("turbot-photos"))
        (True, False)
    """
    scheduler = type(pipeline.scheduler).__name__
    if scheduler in DISTILLED_SCHEDULERS:
        return f"its scheduler is {scheduler}"
    for name in active_adapters(network):
        if DISTILLED_NAMES.search(name.lower()):
            return f"its LoRA {name!r} is active"
    stated = [getattr(part.config, "_name_or_path", None) or "" for part in (pipeline, network) if hasattr(part, "config")]
    for name in (*names, *stated):
        found = DISTILLED_NAMES.search(str(name).lower())
        if found:
            return f"its name holds {found.group(1)!r}"
    return None


def active_adapters(network: Any) -> list[str]:
    """Names of the LoRAs that act on a network."""
    if not hasattr(network, "peft_config"):
        return []
    found: dict[str, None] = {}
    for module in network.modules():
        if hasattr(module, "lora_A") and not module.disable_adapters:
            found |= dict.fromkeys(module.active_adapters)
    return list(found)
