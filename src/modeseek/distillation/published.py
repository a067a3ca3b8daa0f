"""Sources of the published recipes' settings, and a prior evaluated at a timestep that corresponds to no noise level.

Each entry cites the public code it was read from; a test checks that every setting of a published recipe has a source.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch

from modeseek.priors.pipelines.levels import Levels

_LOOP = "the MSD paper's loop for images (Thamizharasan et al. 2025, section 4.4), not the baseline's own"
_THREESTUDIO = "threestudio at 28d9d80, configs/"
SOURCES: dict[str, dict[str, str]] = {
    "sds": {
        "steps, optimiser, lr": _LOOP,
        "timesteps": f"{_THREESTUDIO}dreamfusion-sd.yaml: min and max_step_percent 0.02 and 0.98",
        "weight": "stable_diffusion_guidance.py, weighting_strategy sds: 1 - alphabar",
        "published_guidance": f"{_THREESTUDIO}dreamfusion-sd.yaml: 100 in D_c + s (D_c - D_u), which is 101 here (100 with Perp-Neg)",
    },
    "sjc": {
        "steps, optimiser, lr": _LOOP,
        "timesteps": f"{_THREESTUDIO}sjc.yaml: 0.01 and 0.97; the authors' own code draws from sigma 0.098 to 12.2, t = 30 to 959",
        "weight": "w = 1, with variance reduction (var_red: true)",
        "published_guidance": "pals-ttic/sjc run_sjc.py: 100 in D_u + s (D_c - D_u); threestudio's 100 is 101 here",
    },
    "vsd": {
        "steps, optimiser, lr": _LOOP,
        "timesteps": f"{_THREESTUDIO}prolificdreamer.yaml: 0.02 and 0.98, then max 0.5 after 5000 of 25 000 steps",
        "weight": "stable_diffusion_vsd_guidance.py: 1 - alphabar",
        "lora_lr": f"{_THREESTUDIO}prolificdreamer.yaml: AdamW at 1e-4 with betas (0.9, 0.99); rank 4; t of 0 to 999 in training",
        "published_guidance": f"{_THREESTUDIO}prolificdreamer.yaml: 7.5 in D_u + s (D_c - D_u)",
    },
    "sdi": {
        "steps, optimiser, lr": _LOOP,
        "timesteps": f"{_THREESTUDIO}sdi.yaml: max_step_percent 0.98 to min_step_percent 0.25, linear (t_anneal)",
        "sampler_steps, inversion, eta, as_published": f"{_THREESTUDIO}sdi.yaml: inversion_n_steps 10, _guidance_scale -7.5, _eta 0.3",
        "published_guidance": f"{_THREESTUDIO}sdi.yaml: 7.5 with Perp-Neg, which is on there; without it the code's 7.5 is 8.5 here",
    },
    "msd-published": {
        "steps, optimiser, lr": "the MSD paper, section 4.4",
        "timesteps, sampler_steps, bandwidth, interval, scaling": "the MSD paper, section 4.3, Algorithm 2 and Figure 5",
    },
}
"""Recipe -> fields -> where the numbers come from."""


def at_timestep(prior: Any, t: float) -> Any:
    """Return the prior with its network evaluated at timestep t for every noise level, or None if the network has no timesteps.

    Published SDI makes its first call at t < 0, which corresponds to no noise level. Wrappers of a prior (a field `prior`) are kept.
    """
    names = {entry.name for entry in fields(prior)} if is_dataclass(prior) else set()
    if "prior" in names:
        inner = at_timestep(prior.prior, t)
        return None if inner is None else replace(prior, prior=inner)
    if "levels" not in names or getattr(prior, "timesteps", None) is None:
        return None
    levels = prior.levels

    def at() -> Any:
        now = levels()
        return replace(now, view=lambda network: now.view(lambda z, given: network(z, torch.full_like(given, t))))

    return replace(prior, levels=at() if isinstance(levels, Levels) else at)
