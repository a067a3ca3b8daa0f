"""Ten lines for a renderer of one's own: fit a polygon's corners so that its corners lie on the modes of a density."""

import torch

import modeseek


class Polygon(torch.nn.Module):
    """theta -> x: any differentiable renderer; here each point is pulled a little towards the mean of all."""

    def __init__(self):
        super().__init__()
        self.corners = torch.nn.Parameter(torch.randn(64, 2, generator=torch.Generator().manual_seed(0)))

    def forward(self):
        return 0.9 * self.corners + 0.1 * self.corners.mean(0)


polygon = Polygon()
msd = modeseek.MSD(denoiser=modeseek.embedded("pinwheel"), sampler=modeseek.ExactSampler())
before = modeseek.pinwheel().log_prob(polygon().detach().double()).mean()
for step in modeseek.distill(polygon, msd, steps=60, lr=0.08):
    if step.index % 20 == 0:
        print(f"step {step.index}: residual {float(step.estimate.info['residual'].mean()):.3f}, {step.calls:g} calls")
after = modeseek.pinwheel().log_prob(polygon().detach().double()).mean()
print(f"mean log density {float(before):.2f} -> {float(after):.2f}")
assert after > before + 1
