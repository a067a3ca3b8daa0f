"""Golden values of the playground: inputs and the package's outputs in float64, for the page's scripts to reproduce.

A case is {"name", "kind", inputs..., "expected"}; `playground_golden.js` computes the page's answer for each kind. Randomness is explicit:
a gradient's uniforms and normals are replayed from the generator that the package drew from.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from modeseek import MSD, SDI, SDS, SJC, VSD, EmpiricalDensity, Guided, NoiseLevels, embedded, fractal, pinwheel, spiral
from modeseek.core.schedules import AdaptiveBandwidth, ExponentialBandwidth, LinearBandwidth, karras
from modeseek.gradients import HDODE, MeanShift
from modeseek.metrics import negative_log_likelihood, outlier_rate, precision_recall
from modeseek.metrics.landscape import integrate
from modeseek.product.reverse import ReverseSampler, derived_noise
from modeseek.product.samplers import ExactSampler, ProximalSampler, SplitSampler

DENSITIES = {"pinwheel": pinwheel, "spiral": spiral, "fractal": fractal}
SETTINGS = {
    "bandwidthStart": 0.3,
    "bandwidthEnd": 0.02,
    "schedule": "linear",
    "evaluations": 8,
    "low": 0.02,
    "high": 2.0,
    "samples": 1,
    "total": 50,
}
PROGRESS = 0.4


class Ideal(nn.Module):
    """The ideal denoiser of points as VSD's auxiliary: the minimiser of its training loss."""

    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))
        self.density = EmpiricalDensity(points)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.density.reference(x, sigma)


def learned(name: str) -> nn.Module:
    return copy.deepcopy(embedded(name)).double()


def denoisers() -> dict[str, tuple[dict[str, Any], Any]]:
    """Name -> the page's settings and the package's denoiser."""
    found: dict[str, tuple[dict[str, Any], Any]] = {}
    for name, density in DENSITIES.items():
        found[f"{name}, exact"] = ({"density": name, "denoiser": "true"}, density())
        network = "fractal-a" if name == "fractal" else name
        found[f"{name}, learned"] = ({"density": name, "denoiser": "learned"}, learned(network))
    settings = {"density": "fractal", "denoiser": "true", "guidance": "cfg", "scale": 4}
    found["fractal, exact, CFG"] = (settings, Guided(denoiser=fractal("A"), weaker=fractal("AB"), scale=4.0))
    for guidance, weak, scale in (("cfg", "fractal-ab-weak", 4.0), ("auto", "fractal-a-weak", 3.0)):
        settings = {"density": "fractal", "denoiser": "learned", "guidance": guidance, "scale": scale}
        found[f"fractal, learned, {guidance}"] = (settings, Guided(denoiser=learned("fractal-a"), weaker=learned(weak), scale=scale))
    return found


def golden() -> list[dict[str, Any]]:
    """Every case: densities, denoisers, products, levels, gradients, scores and the implied loss."""
    rng = torch.Generator().manual_seed(0)
    x = 3 * torch.rand(24, 2, dtype=torch.float64, generator=rng) - 1.5
    sigma = 0.002 * 2500 ** torch.rand(24, dtype=torch.float64, generator=rng)
    cases: list[dict[str, Any]] = []

    def add(kind: str, name: str, expected: Tensor, **inputs: Any) -> None:
        cases.append({"kind": kind, "name": f"{kind}: {name}", "expected": flat(expected), **inputs})

    for name, density in DENSITIES.items():
        for level in (0.0, 0.05, 1.0):
            add("logProb", f"{name}, {level}", density().log_prob(x, level), density=name, x=flat(x), sigma=level)
        for bandwidth in (0.05, 0.4):
            product = density().product(x[3], bandwidth)
            near = x[3] + bandwidth * torch.randn(12, 2, dtype=torch.float64, generator=rng)
            inputs = {"centre": flat(x[3]), "bandwidth": bandwidth, "sigma": 0.03, "x": flat(near)}
            add("product", f"{name}, {bandwidth}", product.log_prob(near, 0.03), density=name, **inputs)
    for name, (settings, denoiser) in denoisers().items():
        add("denoise", f"{name}, one level each", denoiser(x, sigma), settings=settings, x=flat(x), sigma=flat(sigma))
        add("denoise", f"{name}, one level", denoiser(x, torch.tensor(0.1)), settings=settings, x=flat(x), sigma=0.1)
    points = pinwheel().sample(300, rng=rng)
    add("ideal", "each", EmpiricalDensity(points).reference(x, sigma), points=flat(points), x=flat(x), sigma=flat(sigma))
    add("karras", "5 levels", karras(5, dtype=torch.float64), steps=5)

    for name, (settings, denoiser) in denoisers().items():
        for method, gradient in gradients(denoiser, x).items():
            add_gradient(cases, f"{method}, {name}", method, settings, gradient, x)
            if "pinwheel, exact" in name and method in ("exact", "sds"):
                add_gradient(cases, f"{method}, {name}, 3 samples", method, settings | {"samples": 3}, gradients(denoiser, x, 3)[method], x)
    for progress in (0.0, 0.4):
        rule = MSD(denoiser=spiral(), bandwidth=AdaptiveBandwidth(start=0.3, end=0.02), sampler=ExactSampler(steps=4))
        add_gradient(cases, f"adaptive, {progress}", "adaptive", {"density": "spiral", "denoiser": "true"}, rule, x, progress)
    rule = MSD(denoiser=spiral(), bandwidth=ExponentialBandwidth(start=0.3, end=0.02), sampler=ExactSampler(steps=5))
    add_gradient(cases, "exponential", "exact", {"density": "spiral", "denoiser": "true", "schedule": "exponential"}, rule, x)

    true, made = pinwheel().sample(200, rng=rng), pinwheel().sample(200, sigma=0.05, rng=rng)
    near = precision_recall(made, true)
    scores = [negative_log_likelihood(made, pinwheel()), outlier_rate(made, pinwheel()), near["precision"], near["coverage"]]
    add("scores", "pinwheel", torch.tensor(scores, dtype=torch.float64), density="pinwheel", x=flat(made), truth=flat(true))
    field = torch.randn(9, 9, 2, dtype=torch.float64, generator=rng)
    found = integrate(field, spacing=0.4)
    both = torch.cat([found.potential.flatten(), torch.tensor([found.curl], dtype=torch.float64)])
    add("integrate", "9 x 9", both, field=flat(field), n=9, spacing=0.4)
    return cases


def gradients(denoiser: Any, x: Tensor, samples: int = 1) -> dict[str, Any]:
    """Method of the page -> the package's gradient with `SETTINGS`."""
    levels = NoiseLevels(low=SETTINGS["low"], high=SETTINGS["high"])
    bandwidth = LinearBandwidth(start=SETTINGS["bandwidthStart"], end=SETTINGS["bandwidthEnd"])
    msd = {"denoiser": denoiser, "bandwidth": bandwidth, "samples": samples}
    return {
        "sds": SDS(denoiser=denoiser, levels=levels, samples=samples),
        "sjc": SJC(denoiser=denoiser, levels=levels, samples=samples, variance_reduced=False),
        "vsd": VSD(denoiser=denoiser, auxiliary=Ideal(x), levels=levels, samples=samples),
        "sdi": SDI(denoiser=denoiser, start=SETTINGS["high"], end=SETTINGS["low"]),
        "split": MSD(sampler=SplitSampler(steps=8), **msd),
        "exact": MSD(sampler=ExactSampler(steps=5), **msd),
        "proximal": MSD(sampler=ProximalSampler(steps=8), **msd),
        "reverse": MSD(sampler=ReverseSampler(steps=8), **msd),
        "hdode": HDODE(denoiser=denoiser, bandwidth=bandwidth, steps=SETTINGS["total"]),
        "mean": MeanShift(denoiser=denoiser, bandwidth=bandwidth),
    }


def add_gradient(
    cases: list[dict[str, Any]], name: str, method: str, settings: dict[str, Any], gradient: Any, x: Tensor, progress: float = PROGRESS
) -> None:
    """The estimate at x, and the random numbers behind it: levels first, then normals, as the package draws them."""
    rng = torch.Generator().manual_seed(3)
    estimate = gradient(x, progress=progress, rng=rng)
    replay = torch.Generator().manual_seed(3)
    uniforms = torch.zeros(0)
    count = settings.get("samples", 1) * len(x)
    if method in ("sds", "sjc", "vsd"):
        uniforms = torch.rand(count, dtype=torch.float64, generator=replay)
    normals = torch.randn(count, 2, dtype=torch.float64, generator=replay)
    if method == "reverse":
        normals = torch.cat([normals, *(derived_noise(normals, index) for index in range(1, 8))])
    inputs = {"method": method, "settings": SETTINGS | settings, "progress": progress, "x": flat(x)}
    expected = flat(torch.cat([estimate.gradient, estimate.target]))
    noise = {"uniforms": flat(uniforms), "normals": flat(normals)}
    cases.append({"kind": "gradient", "name": f"gradient: {name}", "expected": expected, "noise": noise, **inputs})


def flat(values: Tensor) -> list[float]:
    return values.detach().double().flatten().tolist()
