"""The world of the solids: captions that mean one scene, exact distances, images that agree with closed forms, resumable training."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeseek.core.errors import InvalidInput
from modeseek.reproduction.training import networks
from modeseek.reproduction.training.data import STRUCTURES, Bank, build_bank, read_bank
from modeseek.reproduction.training.losses import noise_timesteps, stored_latents, unet_loss
from modeseek.reproduction.training.networks import autoencoder, scheduler
from modeseek.reproduction.training.solids import normalise
from modeseek.reproduction.training.stage import Stage
from modeseek.solids.attributes import ATTRIBUTES, labels
from modeseek.solids.captions import BACKGROUNDS, BASES, COLOURS, COMPOSITES, SHAPES, VIEWS, WORDS, Scene, check_words, parse, scenes
from modeseek.solids.rendering import AMBIENT, DISTANCE, FIELD_OF_VIEW, LIGHT, Cameras, colour, hits, normals, palette, render, trace
from modeseek.solids.shapes import PRIMITIVES, SLOTS, Part, box, capsule, cone, cylinder, ellipsoid, prism, pyramid, solid, sphere, torus
from modeseek.solids.tokenizer import tokenizer


@pytest.fixture(autouse=True)
def single_precision():
    torch.manual_seed(0)


def camera(azimuth=0.0, elevation=0.0):
    return Cameras(torch.tensor([azimuth]), torch.tensor([elevation]), torch.tensor([DISTANCE]))


# ---------------------------------------------------------------- language
@given(st.sampled_from(scenes(held_out=True)), st.sampled_from([None, *BACKGROUNDS]), st.sampled_from([None, *VIEWS]))
@settings(max_examples=60, deadline=None)
def test_captions_are_read_back(scene, background, view):
    scene = Scene(**{**vars(scene), "background": background})
    assert parse(scene.caption(view)) == (scene, view)


def test_scenes_are_all_there_once_and_held_out_apart():
    trained, held_out = scenes(held_out=False), scenes(held_out=True)
    assert len(set(trained) & set(held_out)) == 0
    assert len(trained) + len(held_out) == 14 * 8 + 32 * 64
    assert {scene.shape for scene in held_out} == set(SHAPES + COMPOSITES)
    assert {scene.colour for scene in trained} == set(COLOURS)


def test_every_word_is_one_token():
    tokens = tokenizer()
    for word in WORDS:
        assert len(tokens(word).input_ids) == 3, word
    longest = max((s.caption("overhead") for s in scenes(held_out=True)), key=len)
    full = longest.replace(", overhead", ", white background, overhead")
    assert len(tokens(full).input_ids) <= tokens.model_max_length


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty"),
        ("a photo of a red teapot", "does not contain 'photo', 'of', 'teapot'"),
        ("cube red a", "names no scene"),
        ("a red house on a blue cube", "composites stand alone"),
    ],
)
def test_prompts_that_mean_nothing(prompt, message):
    with pytest.raises(InvalidInput, match=message):
        parse(prompt)


def test_known_words_pass():
    check_words("a cyan torus on an orange cylinder")


# ---------------------------------------------------------------- shapes
VOLUMES = {
    "sphere": (Part(sphere, (0.6,)), 4 / 3 * math.pi * 0.6**3),
    "box": (Part(box, (0.5, 0.4, 0.3)), 8 * 0.5 * 0.4 * 0.3),
    "cylinder": (Part(cylinder, (0.4, 0.5)), math.pi * 0.4**2 * 1.0),
    "frustum": (Part(cone, (0.5, 0.2, 0.4)), math.pi * 0.8 / 3 * (0.25 + 0.1 + 0.04)),
    "torus": (Part(torus, (0.5, 0.2)), 2 * math.pi**2 * 0.5 * 0.2**2),
    "capsule": (Part(capsule, (0.3, 0.4)), math.pi * 0.3**2 * 0.8 + 4 / 3 * math.pi * 0.3**3),
    "pyramid": (Part(pyramid, (0.5, 0.6)), 4 * 0.25 * 1.2 / 3),
    "prism": (Part(prism, (0.5, 0.4, 0.6)), 0.5 * 1.0 * 0.8 * 1.2),
    "ellipsoid": (Part(ellipsoid, (0.6, 0.5, 0.3)), 4 / 3 * math.pi * 0.6 * 0.5 * 0.3),
    "moved": (Part(box, (0.5, 0.2, 0.3), at=(0.2, -0.1, 0.3), turn=30, lie=True, scale=0.8), 8 * 0.5 * 0.2 * 0.3 * 0.8**3),
}


@pytest.mark.parametrize("name", list(VOLUMES))
def test_volume_is_the_closed_form(name, rng):
    part, volume = VOLUMES[name]
    points = 2 * torch.rand(200_000, 3, generator=rng) - 1
    inside = (part(*points.T) < 0).float()
    error = 8 * inside.std() / len(points) ** 0.5
    assert abs(8 * inside.mean() - volume) < 4 * error


@pytest.mark.parametrize("name", ["sphere", "box", "cylinder", "frustum", "torus", "capsule", "moved"])
def test_euclidean_distances_have_unit_gradients(name, rng):
    part, _ = VOLUMES[name]
    points = (2 * torch.rand(2000, 3, generator=rng) - 1).double().requires_grad_()
    distance = part(*points.T)
    gradient = torch.autograd.grad(distance.sum(), points)[0].norm(dim=1)
    assert float((gradient - 1).abs().quantile(0.99)) < 1e-6


@pytest.mark.parametrize("structure", STRUCTURES)
def test_distances_are_never_too_long(structure, rng):
    """A step of the stated distance crosses no surface, which sphere tracing relies on; and every solid fits its ball."""
    shape = solid(structure)
    points = 2.4 * torch.rand(400, 3, generator=rng) - 1.2
    start = shape.distance(points)
    directions = torch.nn.functional.normalize(torch.randn(400, 3, generator=rng), dim=1)
    for share in (0.25, 0.5, 0.75, 0.99):
        assert bool((shape.distance(points + share * start[:, None] * directions)[start > 0] > -1e-5).all())
    far = torch.nn.functional.normalize(torch.randn(2000, 3, generator=rng), dim=1) * 1.05
    assert float(shape.distance(far).min()) > -1e-6


def test_pairs_touch_and_do_not_interpenetrate():
    for upper in SHAPES:
        for lower in BASES:
            parts = solid((upper, lower)).parts
            z = torch.tensor([[0.0, 0.0, parts[1].at[2] + 0.72 * PRIMITIVES[lower][1]]])
            assert abs(float(parts[0].at[2] - 0.72 * PRIMITIVES[upper][1] - z[0, 2])) < 1e-6


# ---------------------------------------------------------------- images
def test_depth_of_a_sphere_is_the_closed_form():
    origins, directions = camera(20.0, 15.0).rays(33)
    directions = directions.reshape(-1, 3)
    origins = origins.expand(len(directions), -1)
    depth = hits(solid(("sphere",)), origins, directions)
    middle = -(origins * directions).sum(1)
    inside = 0.66**2 - (origins**2).sum(1) + middle**2
    clear = inside > 0.02
    assert float((depth - (middle - inside.clamp_min(0).sqrt()))[clear].abs().max()) < 5e-3
    assert not bool(depth[inside < -0.01].isfinite().any())


def test_silhouette_of_a_sphere_has_the_closed_forms_area():
    weights = trace(solid(("sphere",)), camera(), size=128)
    covered = 1 - float(weights[0, -1].mean())
    radius = math.tan(math.asin(0.66 / DISTANCE)) / math.tan(math.radians(FIELD_OF_VIEW / 2))
    assert covered == pytest.approx(math.pi * radius**2 / 4, rel=3e-3)


def test_shading_is_lamberts_and_fixed_in_the_world():
    points = torch.nn.functional.normalize(torch.randn(50, 3), dim=1) * 0.66
    found = normals(solid(("sphere",)), points)
    assert torch.allclose(found, points / 0.66, atol=2e-3)
    light = torch.tensor(LIGHT) / torch.tensor(LIGHT).norm()
    centre = trace(solid(("sphere",)), camera(0.0, 0.0), size=65)[0, 0, 32, 32]
    assert float(centre) == pytest.approx(AMBIENT + (1 - AMBIENT) * float(light[0]), abs=0.02)


def test_images_are_linear_in_the_palette():
    scene = Scene(shape="car", colour="red", background="navy")
    cameras = camera(30.0, 20.0)
    weights = trace(solid(scene.structure), cameras)
    assert torch.allclose(render(scene, cameras), colour(weights, palette(scene)[None]))
    assert weights.shape == (1, len(SLOTS) + 1, 64, 64)
    total = render(Scene(shape="car", colour="red", background="white"), cameras) - render(scene, cameras)
    empty = weights[0, -1] == 0
    assert float(total[0, :, empty].abs().max()) == 0


def test_composites_show_their_front():
    for name in COMPOSITES:
        front, back = (trace(solid((name,)), camera(azimuth, 15.0))[0, :-1] > 0 for azimuth in (0.0, 180.0))
        assert float((front != back).float().mean()) > 0.002, name


# ---------------------------------------------------------------- data and training
@pytest.fixture(scope="session")
def bank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    assert [done for done, _ in build_bank(folder, per_view=1, size=16)] == list(range(1, 47))
    return read_bank(folder, per_view=1)


def test_batches_are_the_seeds_and_keep_to_their_side(bank):
    one, two = bank.batch(64, seed=3), bank.batch(64, seed=3)
    assert torch.equal(one.images, two.images)
    assert one.captions() == two.captions()
    assert not any(scene.held_out for scene in one.scenes)
    assert all(scene.held_out for scene in bank.batch(64, seed=3, held_out=True).scenes)
    assert one.labels().shape == (64, len(ATTRIBUTES))
    assert labels(one.scenes[0], one.views[0]) == one.labels()[0].tolist()


def test_bank_matches_the_renderer(bank):
    assert isinstance(bank, Bank)
    batch = bank.batch(8, seed=0)
    place = STRUCTURES.index(batch.scenes[0].structure), VIEWS.index(batch.views[0])
    direct = colour(bank.weights[place].float() / 255, palette(batch.scenes[0])[None])
    assert torch.allclose(direct[0], batch.images[0])


def test_silent_clauses_are_left_out(bank, rng):
    batch = bank.batch(200, seed=1)
    texts = batch.captions(rng=rng, silent=0.5)
    share = sum("background" in text for text in texts) / len(texts)
    assert abs(share - 0.5) < 4 * 0.5 / 200**0.5
    assert all(parse(text)[0].shape == scene.shape for text, scene in zip(texts, batch.scenes, strict=True))


def test_normalising_keeps_the_images(rng):
    network = autoencoder().eval().requires_grad_(False)
    images = torch.rand(2, 3, 64, 64, generator=rng)
    before = network.encode(images).latent_dist
    same = network.decode(before.mean).sample
    mean, std = torch.randn(8, generator=rng), torch.rand(8, generator=rng) + 0.5
    normalise(network, mean, std)
    after = network.encode(images).latent_dist
    assert torch.allclose(after.mean, (before.mean - mean[:, None, None]) / std[:, None, None], atol=1e-4)
    assert torch.allclose(after.std, before.std / std[:, None, None], rtol=1e-3)
    assert torch.allclose(network.decode(after.mean).sample, same, atol=1e-4)


def test_a_stage_resumes_to_the_same_weights(tmp_path):
    def stage():
        torch.manual_seed(1)
        network = torch.nn.Linear(3, 1)

        def loss(net, generator, seed):
            x = torch.randn(8, 3, generator=generator)
            return ((net(x) - x.sum(1, keepdim=True)) ** 2).mean()

        return Stage(name="line", network=network, loss=loss, steps=20, lr=0.05)

    config = "settings"
    whole = stage()
    *_, last = whole.run(tmp_path / "whole", config, every=5)
    for step in (broken := stage()).run(tmp_path / "broken", config, every=5):
        if step.done == 12:
            break
    del broken
    *_, again = stage().run(tmp_path / "broken", config, every=5)
    assert again.done == last.done == 20
    one, two = ((tmp_path / name / "line.safetensors").read_bytes() for name in ("whole", "broken"))
    assert one == two
    assert not (tmp_path / "broken" / "line.checkpoint.safetensors").exists()


def test_the_unets_loss_vanishes_at_the_exact_prediction(rng):
    """Where all latents are 0, z = b n and v = a n = (a/b) z; a tenth of the captions is the empty one."""
    a, b = (part.sqrt().float() for part in (scheduler().alphas_cumprod.double(), 1 - scheduler().alphas_cumprod.double()))
    queried = []

    class Exact(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.off = torch.nn.Parameter(torch.zeros(()))

        def forward(self, z, t, ids):
            queried.append(ids)
            return (a / b)[t, None, None, None] * z + self.off

    ids = torch.tensor([[5, 6], [5, 7], [0, 1]], dtype=torch.short)  # two captions, and the empty one
    loss, network = unet_loss(stored_latents(torch.zeros(2, 8, 4, 4), ids[:2])), Exact()
    assert float(loss(network, rng, 0).detach()) < 1e-9
    network.off.data.fill_(0.5)
    assert float(loss(network, rng, 1).detach()) == pytest.approx(0.25, rel=1e-3)
    for seed in range(48):
        loss(network, rng, seed)
    empty = (torch.cat(queried) == ids[-1].long()).all(1).float()
    assert abs(float(empty.mean()) - 0.1) < 4 * (0.1 * 0.9 / len(empty)) ** 0.5


def test_noise_levels_of_training_are_where_the_denoiser_is_furthest_behind():
    """Their quartiles are those of the stated mixture; the level without signal is among them."""
    count = 20_000
    t = noise_timesteps(count, torch.Generator().manual_seed(0))
    alphas = scheduler().alphas_cumprod.double()
    log_sigma = 0.5 * (1 / alphas - 1).log()
    for level in (-1.0, 0.5, 1.7, 4.0):
        normal = 0.5 * (1 + math.erf((level - 0.5) / 1.2 / 2**0.5))
        wanted = 0.8 * normal + 0.2 * float((log_sigma < level).double().mean())
        found = float((log_sigma[t] < level).double().mean())
        assert abs(found - wanted) < 4 * (wanted * (1 - wanted) / count) ** 0.5 + 2e-3, level
    assert int(t.max()) == len(alphas) - 1
    assert int(t.min()) == 0


def test_the_text_tower_learns_with_the_unet():
    """All its tensors but the key biases, which softmax cannot see, get a gradient, and the loss falls along it as far as it says."""
    torch.manual_seed(3)
    network, ids = networks.Conditioned(), torch.tensor(tokenizer()(["a red cube", ""], padding="max_length").input_ids)
    loss = unet_loss(stored_latents(torch.randn(1, 8, 16, 16), ids[:1]))

    def value():
        return loss(network, torch.Generator().manual_seed(0), 0)

    before = value()
    before.backward()
    silent = [name for name, p in network.text.named_parameters() if (p.grad is None or not p.grad.any()) and "k_proj.bias" not in name]
    assert silent == []
    with torch.no_grad():
        squared = sum(float((p.grad**2).sum()) for p in network.parameters() if p.grad is not None)
        step = 0.02 * float(before) / squared
        for p in network.parameters():
            if p.grad is not None:
                p -= step * p.grad
        assert float(before - value()) == pytest.approx(step * squared, rel=0.25)
