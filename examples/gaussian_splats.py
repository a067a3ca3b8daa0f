"""Distil Gaussian splats with densification: rendered by gsplat on a GPU, or by twenty lines of PyTorch."""

from dataclasses import replace

import torch

from modeseek import distill, replace_parameter
from modeseek.distillation.recipes import RECIPES, build_gradient
from modeseek.priors.solids import solids_prior
from modeseek.representations.nerf import Cameras
from modeseek.solids.scoring import scorer

try:
    from gsplat import rasterization
except ImportError:
    rasterization = None
DEVICE = "cuda" if rasterization is not None and torch.cuda.is_available() else "cpu"
SIZE = (64, 64)


class Splats(torch.nn.Module):
    """theta -> views: isotropic Gaussians with a centre, a radius, an opacity and a colour each, on white."""

    def __init__(self, cameras, count=120):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.cameras = cameras
        self.means = torch.nn.Parameter(0.35 * torch.randn(count, 3, generator=rng).to(DEVICE))
        self.radii = torch.nn.Parameter(torch.full((count,), -2.2, device=DEVICE))
        self.opacities = torch.nn.Parameter(torch.zeros(count, device=DEVICE))
        self.colours = torch.nn.Parameter(torch.randn(count, 3, generator=rng).to(DEVICE))

    def forward(self):
        radii, opacities, colours = self.radii.exp(), self.opacities.sigmoid(), self.colours.sigmoid()
        draw = splat_on_gpu if DEVICE == "cuda" else splat
        return draw(self.cameras, self.means, radii, opacities, colours)

    def densify(self, new=20):
        """Remove the Gaussians that are nearly transparent, and split those whose centres have the largest gradients."""
        kept = (self.opacities.detach().sigmoid() > 0.05).nonzero()[:, 0]
        split = kept[self.means.grad[kept].norm(dim=1).topk(min(new, len(kept))).indices]
        rows = torch.cat([kept, split])
        continued = torch.cat([kept, torch.full_like(split, -1)])  # the optimiser's state of a new Gaussian starts at zero
        shift = torch.cat([torch.zeros(len(kept)), torch.ones(len(split))]).to(DEVICE)
        jitter = torch.randn(len(rows), 3, generator=torch.Generator().manual_seed(len(rows))).to(DEVICE)
        means = self.means.detach()[rows] + (shift * self.radii.detach()[rows].exp())[:, None] * jitter
        changed = {"means": means, "radii": self.radii.detach()[rows] - 0.3 * shift}
        for name in ("means", "radii", "opacities", "colours"):
            replace_parameter(self, name, changed.get(name, getattr(self, name).detach()[rows]), rows=continued)


def splat(cameras, means, radii, opacities, colours):
    """Composite front to back with alpha = opacity exp(-distance^2 / 2 radius^2): (views, 3, height, width)."""
    places, depth = cameras.project(means, SIZE)
    focal = SIZE[0] / 2 / (cameras.fov.deg2rad() / 2).tan()[:, None]
    order = depth.argsort(1)
    rows, columns = places.gather(1, order[..., None].expand(-1, -1, 2)).unbind(-1)
    spread = 2 * (radii * focal / depth).gather(1, order).square() + 0.6  # at least about half a pixel
    ticks = torch.arange(SIZE[0]) + 0.5
    down = (-((ticks[:, None] - rows[:, None]).square()) / spread[:, None]).exp()  # (views, height, splats)
    across = (-((ticks[:, None] - columns[:, None]).square()) / spread[:, None]).exp()
    alpha = 0.99 * opacities[order][:, None, None] * down[:, :, None] * across[:, None]  # (views, height, width, splats)
    through = (1 - alpha).cumprod(-1)
    weights = alpha * torch.cat([torch.ones_like(through[..., :1]), through[..., :-1]], -1)
    return (torch.einsum("vhws,vsc->vchw", weights, colours[order]) + through[..., -1][:, None]).clamp(0, 1)


def splat_on_gpu(cameras, means, radii, opacities, colours):
    """The same with gsplat, whose cameras look along +z with y down."""
    right, up, back = cameras.axes()
    views = torch.eye(4).repeat(len(cameras), 1, 1)
    views[:, :3, :3] = torch.stack([right, -up, -back], 1)
    views[:, :3, 3] = -torch.einsum("vij,vj->vi", views[:, :3, :3], cameras.eye)
    lens = torch.diag_embed(torch.stack([SIZE[0] / 2 / (cameras.fov.deg2rad() / 2).tan()] * 2 + [torch.ones(len(cameras))], 1))
    lens[:, 0, 2], lens[:, 1, 2] = SIZE[1] / 2, SIZE[0] / 2
    turns = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(len(means), 4)
    white = torch.ones(len(cameras), 3, device=means.device)
    views, lens, turns = (part.to(means) for part in (views, lens, turns))
    scales = radii[:, None].expand(-1, 3)
    image, _, _ = rasterization(means, turns, scales, opacities, colours, views, lens, SIZE[1], SIZE[0], backgrounds=white)
    return image.permute(0, 3, 1, 2)


cameras = Cameras.orbit([0.0, 90.0, 180.0], 20.0)
prompts = [f"a red cube on a blue cylinder, white background, {name} view" for name in cameras.names]
splats, prior = Splats(cameras), solids_prior(device=DEVICE)
recipe = replace(RECIPES["msd"], steps=60, sampler_steps=10, refresh=15, bandwidth=(6.0, 1.0), first=20.0)
msd = build_gradient(recipe, prior, prompts, guidance=3.0)
before = scorer().similarity(splats().detach().cpu(), prompts).mean()
loop = distill(splats, msd, steps=60, lr=0.06, encode=prior.encode, decode=prior.decode, space="image", refresh=15)
for step in loop:
    if step.index in (15, 30):
        splats.densify()
    if step.index % 15 == 0:
        print(f"step {step.index}: {len(splats.means)} Gaussians, residual {float(step.estimate.info['residual'].mean()):.1f}")
after = scorer().similarity(splats().detach().cpu(), prompts).mean()
print(f"image-text similarity {float(before):.2f} -> {float(after):.2f}")
assert after > before
