"""A triangle mesh of one's own and a prompt: vertices and their colours move, seen through a soft rasteriser of fifteen lines."""

from dataclasses import replace

import torch

from modeseek.distillation import distill
from modeseek.distillation.recipes import RECIPES, build_gradient
from modeseek.priors.solids import solids_prior
from modeseek.representations.nerf import Cameras
from modeseek.solids.scoring import scorer


def ball(rings=7, sectors=8):
    """Vertices (n, 3) of a sphere of radius 0.6, and faces (m, 3) that turn left seen from outside."""
    polar, around = torch.linspace(0.3, torch.pi - 0.3, rings), torch.arange(sectors) * 2 * torch.pi / sectors
    p, a = (grid.flatten() for grid in torch.meshgrid(polar, around, indexing="ij"))
    points = torch.stack([p.sin() * a.cos(), p.sin() * a.sin(), p.cos()], 1)
    vertices = 0.6 * torch.cat([points, torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])])
    top, bottom, last, faces = len(points), len(points) + 1, (rings - 1) * sectors, []
    for k in range(sectors):
        after = (k + 1) % sectors
        faces += [[top, k, after], [bottom, last + after, last + k]]
        for start in range(0, last, sectors):
            below = start + sectors
            faces += [[start + k, below + k, below + after], [start + k, below + after, start + after]]
    return vertices, torch.tensor(faces)


class Mesh(torch.nn.Module):
    """theta -> views: where vertices are and what colour they have, over white."""

    def __init__(self, cameras):
        super().__init__()
        vertices, self.faces = ball()
        self.cameras, self.start = cameras, vertices
        adjacent = torch.zeros(len(vertices), len(vertices))
        for k in range(3):
            adjacent[self.faces[:, k], self.faces[:, k - 1]] = adjacent[self.faces[:, k - 1], self.faces[:, k]] = 1.0
        self.smooth = torch.linalg.inv(torch.eye(len(vertices)) + 3 * (torch.diag(adjacent.sum(1)) - adjacent))  # Nicolet et al. 2021
        self.moved = torch.nn.Parameter(torch.zeros_like(vertices))
        self.colours = torch.nn.Parameter(torch.zeros_like(vertices))

    def forward(self):
        places, depth = self.cameras.project(self.start + self.smooth @ self.moved, (64, 64))
        corners = places[:, self.faces].flip(-1)  # (views, faces, 3, 2) as (column, row)
        along = corners.roll(-1, 2) - corners
        along = along / along.norm(dim=-1, keepdim=True).clamp_min(1e-3)
        # signed distance to the line through each edge, inside positive: linear in the pixel; rows run downwards
        offset = along[..., 0] * corners[..., 1] - along[..., 1] * corners[..., 0]
        ticks = torch.arange(64) + 0.5
        rows, columns = (grid.flatten() for grid in torch.meshgrid(ticks, ticks, indexing="ij"))
        lines = torch.stack([along[..., 1], -along[..., 0], offset], -1)
        pixels = torch.stack([columns, rows, torch.ones(4096)])
        inside = (lines @ pixels).amin(2)  # (views, faces, pixels)
        middle = corners.mean(2)  # beyond a sharp corner the lines run on: not farther than its circle
        inside = inside.minimum((corners - middle[:, :, None]).norm(dim=-1).amax(2)[..., None] - torch.cdist(middle, pixels[:2].T))
        covered = (3 * inside + 2).sigmoid()
        colour = self.colours.sigmoid()[self.faces].mean(1)
        near = torch.einsum("vfp,vf->vfp", covered, (-6 * (depth[:, self.faces].mean(2) - 3.2)).exp())
        image = torch.einsum("vfp,fc->vcp", near / near.sum(1, keepdim=True).clamp_min(1e-6), colour)
        white = (1 - covered).prod(1)[:, None]
        return ((1 - white) * image + white).reshape(-1, 3, 64, 64)


cameras = Cameras.orbit([0.0, 90.0, 180.0], 20.0)
prompts = [f"a red cone, white background, {name} view" for name in cameras.names]
mesh, prior = Mesh(cameras), solids_prior()
recipe = replace(RECIPES["msd"], steps=45, sampler_steps=10, refresh=15, bandwidth=(6.0, 1.0), first=20.0)
msd = build_gradient(recipe, prior, prompts, guidance=3.0)
before = scorer().similarity(mesh().detach(), prompts).mean()
loop = distill(mesh, msd, steps=45, lr=0.05, encode=prior.encode, decode=prior.decode, space="image", refresh=15)
for step in loop:
    if step.index % 15 == 0:
        print(f"step {step.index}: residual {float(step.estimate.info['residual'].mean()):.1f}, {step.calls:g} denoiser calls a view")
after = scorer().similarity(mesh().detach(), prompts).mean()
print(f"image-text similarity {float(before):.2f} -> {float(after):.2f}")
assert after > before
