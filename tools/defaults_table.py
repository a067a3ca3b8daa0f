"""Write the tables of default settings into docs/defaults.md: `python tools/defaults_table.py`. A test compares the page with the code."""

from pathlib import Path

from modeseek.distillation.literature import FALLING
from modeseek.distillation.recipes import Recipe
from modeseek.distillation.recommend import KINDS
from modeseek.distillation.settings import ignored

PAGE = Path(__file__).parent.parent / "docs" / "defaults.md"
OWN_LEVELS = ("ism", "dsd", "consistent3d")
"""Methods with schedules of their own over all levels of the prior, which do not use `Recipe.timesteps`."""
COLUMNS = ("method", "steps", "lr", "schedule", "space", "noise", "refresh", "sampler", "level or bandwidth", "denoiser calls")


def row(name: str, recipe: Recipe) -> list[str]:
    if recipe.method.startswith("msd") or recipe.method in FALLING:
        unit = "timesteps" if recipe.method == "msd-split" else "data std"
        letter = "sigma" if recipe.method == "sds-annealed" else "l"
        scale = f"{letter} {recipe.bandwidth[0]:g} to {recipe.bandwidth[1]:g} {unit}"
    elif recipe.method in OWN_LEVELS:
        scale = "all t, as published"
    else:
        scale = f"t {recipe.timesteps[0]} to {recipe.timesteps[1]}"
    schedule = recipe.schedule + (f", {recipe.warmup:.0%} warm-up" if recipe.warmup else "")
    sampler = recipe.method.removeprefix("msd-") if recipe.method.startswith("msd") else "-"
    noise = "shared" if recipe.method == "consistent3d" else "-" if ignored(recipe.method, ["noise"]) else recipe.noise
    values = (recipe.steps, f"{recipe.lr:g}", schedule, recipe.space, noise, recipe.refresh, sampler, scale, f"{recipe.calls:g}")
    return [f"`{name}`", *map(str, values)]


def table(kind: str) -> str:
    """The Markdown table of one kind."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(row(name, recipe) for name, recipe in KINDS[kind].items())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(text: str) -> str:
    """The page with its tables made again, each between `<!-- KIND -->` and `<!-- end -->`."""
    for kind in KINDS:
        start, end = text.index(f"<!-- {kind} -->"), text.index("<!-- end -->", text.index(f"<!-- {kind} -->"))
        text = f"{text[:start]}<!-- {kind} -->\n\n{table(kind)}\n\n{text[end:]}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
