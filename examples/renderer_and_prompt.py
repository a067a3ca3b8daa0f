"""Ten lines for a renderer of one's own and a prompt: soft discs that the embedded text-to-image prior paints with."""

import torch

from modeseek.distillation import distill
from modeseek.distillation.recipes import RECIPES, build_gradient
from modeseek.priors.solids import solids_prior
from modeseek.solids.scoring import scorer


class Discs(torch.nn.Module):
    """theta -> image: 200 soft discs with a place, a size and a colour each, blended over a background."""

    def __init__(self, count=200):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.places = torch.nn.Parameter(torch.rand(count, 2, generator=rng))
        self.sizes = torch.nn.Parameter(torch.full((count,), -3.0))
        self.colours = torch.nn.Parameter(torch.randn(count, 3, generator=rng))
        self.background = torch.nn.Parameter(torch.zeros(3))

    def forward(self):
        ticks = (torch.arange(64) + 0.5) / 64
        pixels = torch.cartesian_prod(ticks, ticks)
        far = ((pixels[:, None] - self.places) / self.sizes.exp()[:, None]).square().sum(2)
        weights = torch.cat([(2 - 2 * far).sigmoid(), torch.full((len(pixels), 1), 0.2)], 1)
        colours = torch.cat([self.colours, self.background[None]]).sigmoid()
        image = (weights / weights.sum(1, keepdim=True)) @ colours
        return image.T.reshape(1, 3, 64, 64)


prompt = "a red sphere, white background, front view"
discs, prior = Discs(), solids_prior()
msd = build_gradient(RECIPES["msd"], prior, [prompt], guidance=3.0)
before = scorer().similarity(discs().detach(), [prompt])
for step in distill(discs, msd, steps=150, lr=0.03, encode=prior.encode, decode=prior.decode, space="image", refresh=25):
    if step.index % 50 == 0:
        print(f"step {step.index}: residual {float(step.estimate.info['residual'].mean()):.1f}, {step.calls:g} denoiser calls")
after = scorer().similarity(discs().detach(), [prompt])
print(f"image-text similarity {float(before):.2f} -> {float(after):.2f}")
assert after > before
