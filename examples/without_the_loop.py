"""The gradient alone, in a training loop of one's own: five lines in place of a loss."""

import torch

import modeseek

x = torch.nn.Parameter(torch.tensor([[1.2, -0.4], [-0.8, 0.9]]))
optimiser = torch.optim.Adam([x], lr=0.05)
msd = modeseek.MSD(denoiser=modeseek.embedded("spiral"), sampler=modeseek.ExactSampler())
rng = torch.Generator().manual_seed(0)
for k in range(80):
    estimate = msd(x.detach(), progress=k / 79, rng=rng)
    optimiser.zero_grad()
    x.backward(estimate.gradient)  # the whole vector-Jacobian product; no pseudo-loss
    optimiser.step()
log_prob = modeseek.spiral().log_prob(x.detach())
print("log density at the end:", [round(float(v), 2) for v in log_prob])
assert bool((log_prob > -1).all())
