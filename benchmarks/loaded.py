"""The denoiser of a pipeline in memory against the bare call of its UNet: what reading the pipeline at every call costs.

Both make one network call on the same batch, guided (2 n items) and not. The bare call has its conditions, state and timesteps ready.
"""

import statistics
import time

import torch

from modeseek.priors.pipelines import load_prior
from modeseek.priors.solids import solids_prior

PROMPT = "a red cube on a blue cylinder, grey background, front view"


def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def overhead(count, repeats, *, guided):
    """(D / the bare UNet call, seconds of D), the median of `repeats` pairs timed in turn."""
    pipeline = solids_prior(check=False).pipeline
    prior = load_prior(pipeline)
    denoiser = prior.denoiser([PROMPT] * count, guidance=3.0 if guided else 1.0)
    x, sigma = torch.randn(count, *prior.event, generator=torch.Generator().manual_seed(0)), torch.tensor(1.0)
    items = 2 * count if guided else count
    ids = pipeline.tokenizer([PROMPT] * items, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        tokens = pipeline.text_encoder(ids)[0]
    z, t = torch.cat([x] * (items // count)), torch.full((items,), 500)

    def bare():
        with torch.no_grad():
            pipeline.unet(z, t, encoder_hidden_states=tokens, return_dict=False)

    calls = [lambda: denoiser(x, sigma), bare]
    for call in calls:
        call()
    pairs = [[timed(call) for call in calls] for _ in range(repeats)]
    return statistics.median(prior / bare for prior, bare in pairs), statistics.median(prior for prior, _ in pairs)


def benchmarks(*, quick):
    """Four images, one in the quick run."""
    count, repeats = (1, 3) if quick else (4, 41)
    found = {}
    for guided in (True, False):
        ratio, taken = overhead(count, repeats, guided=guided)
        kind = "guided" if guided else "unguided"
        found |= {f"loaded pipeline's D / bare UNet call, {kind}, batch {count}": ratio, f"its D, {kind}, s": taken}
    return found


if __name__ == "__main__":
    for name, value in benchmarks(quick=False).items():
        print(f"{name:60s} {value:9.3f}")
