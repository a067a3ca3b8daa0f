"""A vector graphic of one's own and a prompt: filled closed Bezier curves, drawn through their signed distance, written as an .svg."""

from dataclasses import replace
from pathlib import Path

import torch

from modeseek.distillation import distill
from modeseek.distillation.recipes import RECIPES, build_gradient
from modeseek.priors.solids import solids_prior
from modeseek.solids.scoring import scorer

SIZE = 64


class Shapes(torch.nn.Module):
    """theta -> image: closed smooth curves through six points each, filled one over the other on a background."""

    def __init__(self, count=8, points=6):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        angles = torch.arange(points) * 2 * torch.pi / points
        circle = torch.stack([angles.cos(), angles.sin()], 1)
        centres = SIZE * (0.25 + 0.5 * torch.rand(count, 1, 2, generator=rng))
        self.points = torch.nn.Parameter((centres + SIZE * 0.12 * circle) / 10)  # tens of pixels: one rate for all
        self.colours = torch.nn.Parameter(torch.randn(count, 3, generator=rng))
        self.background = torch.nn.Parameter(torch.ones(3))

    def beziers(self):
        """(curves, pieces, 4, 2): cubic pieces from point to point, tangents along the chord of the neighbours (Catmull-Rom)."""
        start, end = 10 * self.points, 10 * self.points.roll(-1, 1)
        tangent = (end - start.roll(1, 1)) / 6
        return torch.stack([start, start + tangent, end - tangent.roll(-1, 1), end], 2)

    def forward(self):
        t = torch.arange(4)[:, None] / 4
        basis = torch.cat([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1)
        outline = (basis @ self.beziers()).flatten(1, 2)  # (curves, corners, 2) of a polygon
        image = self.background.sigmoid()[:, None].expand(3, SIZE * SIZE)
        for corners, colour in zip(outline, self.colours.sigmoid(), strict=True):
            cover = (2 * signed_distance(corners)).sigmoid()
            image = image + cover * (colour[:, None] - image)
        return image.reshape(1, 3, SIZE, SIZE)

    @torch.no_grad()
    def svg(self):
        def rgb(colour):
            return "rgb({},{},{})".format(*(int(v) for v in 255 * colour.sigmoid()))

        lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}">']
        lines += [f'<rect width="{SIZE}" height="{SIZE}" fill="{rgb(self.background)}"/>']
        for pieces, colour in zip(self.beziers(), self.colours, strict=True):
            curves = " ".join("C" + " ".join(f"{v:.2f}" for v in piece[1:].flatten()) for piece in pieces)
            first = " ".join(f"{v:.2f}" for v in pieces[0, 0])
            lines += [f'<path d="M{first} {curves}Z" fill="{rgb(colour)}"/>']
        return "\n".join([*lines, "</svg>\n"])


def signed_distance(corners):
    """Pixels to the outline of a polygon, inside positive (odd number of edges crossed): (pixels,)."""
    ticks = torch.arange(SIZE) + 0.5
    y, x = (grid.reshape(-1, 1) for grid in torch.meshgrid(ticks, ticks, indexing="ij"))
    (ax, ay), (bx, by) = corners.T, corners.roll(-1, 0).T
    dx, dy, px, py = bx - ax, by - ay, x - ax, y - ay
    along = ((px * dx + py * dy) / (dx * dx + dy * dy).clamp_min(1e-6)).clamp(0, 1)
    distance = ((px - along * dx).square() + (py - along * dy).square()).amin(1).clamp_min(1e-6).sqrt()
    crossed = ((ay > y) != (by > y)) & (px < dx * py / torch.where(dy == 0, 1.0, dy))
    return torch.where(crossed.sum(1) % 2 == 1, distance, -distance)


prompt = "a yellow mushroom, navy background, front view"
shapes, prior = Shapes(), solids_prior()
recipe = replace(RECIPES["msd"], steps=90, sampler_steps=15, refresh=18)
msd = build_gradient(recipe, prior, [prompt], guidance=3.0)
before = scorer().similarity(shapes().detach(), [prompt])
loop = distill(shapes, msd, steps=90, lr=0.1, encode=prior.encode, decode=prior.decode, space="image", refresh=18)
for step in loop:
    if step.index % 18 == 0:
        print(f"step {step.index}: residual {float(step.estimate.info['residual'].mean()):.1f}, {step.calls:g} denoiser calls")
after = scorer().similarity(shapes().detach(), [prompt])
out = Path("runs/vector-graphic.svg")
out.parent.mkdir(exist_ok=True)
out.write_text(shapes.svg())
print(f"image-text similarity {float(before):.2f} -> {float(after):.2f}; {out}")
assert after > before
