"""Distillation steps on images, and the bare network calls inside them; as a script, the peak memory of either in MB."""

import resource
import sys

import torch

from modeseek.distillation import distill
from modeseek.distillation.recipes import RECIPES, build_gradient
from modeseek.priors.solids import solids_prior
from modeseek.representations import Pixels


def prepare(batch):
    prior = solids_prior()
    prompts = ["a red cube on a blue cylinder, grey background, front view"] * batch
    pixels = Pixels(range(batch), size=prior.image_size)
    return prior, prompts, pixels


def loop(prior, prompts, pixels, steps):
    sds = build_gradient(RECIPES["sds"], prior, prompts, guidance=3.0)
    for _ in distill(pixels, sds, steps=steps, encode=prior.encode):
        pass


def bare(prior, prompts, pixels, steps):
    pipeline = prior.pipeline
    ids = pipeline.tokenizer(prompts + [""] * len(prompts), padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        states = pipeline.text_encoder(ids)[0]
    optimiser = torch.optim.Adam(pixels.parameters(), lr=0.08)
    t = torch.full((2 * len(prompts),), 500)
    for _ in range(steps):
        z = pipeline.vae.encode(2 * pixels() - 1).latent_dist.mean
        with torch.no_grad():
            predicted = pipeline.unet(torch.cat([z, z]), t, states).sample
        optimiser.zero_grad()
        z.backward(predicted[: len(prompts)])
        optimiser.step()


if __name__ == "__main__":
    made = prepare(int(sys.argv[2]))
    {"loop": loop, "bare": bare}[sys.argv[1]](*made, 3)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
