"""Captions of the solids: every scene has one caption, and every caption names one scene.

    a COLOUR OBJECT                              sphere ... prism, or a composite such as a house
    a COLOUR SHAPE on a COLOUR BASE              two parts
    ..., BACKGROUND background, VIEW view        both clauses may be left out, in this order

`Scene.caption` writes the caption of a scene; `parse` reads one and raises an error that names unknown words. Some combinations of colour
and object are held out of training (`Scene.held_out`), to test whether a prior composes words or has memorised captions.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from modeseek.core.errors import InvalidInput

SHAPES = ("sphere", "cube", "cylinder", "cone", "torus", "capsule", "pyramid", "prism")
COMPOSITES = ("house", "car", "mushroom", "rocket", "robot", "boat")
BASES = ("cube", "cylinder", "sphere", "torus")
COLOURS = {
    "red": (0.86, 0.10, 0.10),
    "orange": (0.98, 0.52, 0.06),
    "yellow": (0.95, 0.86, 0.12),
    "green": (0.12, 0.66, 0.18),
    "cyan": (0.12, 0.80, 0.84),
    "blue": (0.12, 0.24, 0.88),
    "purple": (0.52, 0.16, 0.74),
    "pink": (0.98, 0.52, 0.74),
}
BACKGROUNDS = {"white": (0.97, 0.97, 0.97), "grey": (0.50, 0.50, 0.50), "black": (0.04, 0.04, 0.04), "navy": (0.08, 0.10, 0.32)}
VIEWS = ("front", "side", "back", "overhead")
WORDS = tuple(dict.fromkeys(("a", "an", "on", ",", "background", "view", *SHAPES, *COMPOSITES, *COLOURS, *BACKGROUNDS, *VIEWS)))


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Meaning of a caption: an object, possibly on a base, in front of a background; None for what the caption leaves out.

    Example:
        >>> Scene(shape="cube", colour="red", base="cylinder", base_colour="blue").caption("front")
        'a red cube on a blue cylinder, front view'
    """

    shape: str
    colour: str
    base: str | None = None
    base_colour: str | None = None
    background: str | None = None

    def __post_init__(self) -> None:
        composite = self.shape in COMPOSITES
        known = (composite or self.shape in SHAPES) and self.colour in COLOURS and self.background in (None, *BACKGROUNDS)
        based = self.base in BASES and self.base_colour in COLOURS and not composite
        if not known or not (based or (self.base is None and self.base_colour is None)):
            raise InvalidInput(f"{self!r} is no scene: composites stand alone, bases are {', '.join(BASES)}")

    def caption(self, view: str | None = None) -> str:
        """The caption, with the name of a view where given."""
        text = f"{article(self.colour)} {self.colour} {self.shape}"
        if self.base is not None and self.base_colour is not None:
            text += f" on {article(self.base_colour)} {self.base_colour} {self.base}"
        text += f", {self.background} background" if self.background else ""
        return text + (f", {view} view" if view else "")

    @property
    def structure(self) -> tuple[str, ...]:
        """The geometry: (shape,) or (shape, base)."""
        return (self.shape,) if self.base is None else (self.shape, self.base)

    @property
    def held_out(self) -> bool:
        """Whether the scene is held out of training: one colour of each object, and one base colour for each shape on a base."""
        objects = SHAPES + COMPOSITES
        index = objects.index(self.shape)
        if index % len(COLOURS) == list(COLOURS).index(self.colour):
            return True
        return self.base_colour is not None and (index + 3) % len(COLOURS) == list(COLOURS).index(self.base_colour)


def article(word: str) -> str:
    """Indefinite article of a word."""
    return "an" if word[0] in "aeiou" else "a"


def structures() -> Iterator[tuple[str, ...]]:
    """Every geometry, as `Scene.structure` writes it."""
    yield from ((shape,) for shape in SHAPES + COMPOSITES)
    yield from itertools.product(SHAPES, BASES)


def scenes(*, held_out: bool) -> list[Scene]:
    """All scenes without a background, either those of training or those held out, in a fixed order."""
    found = []
    for structure in structures():
        for colour in COLOURS:
            for base_colour in COLOURS if len(structure) == 2 else (None,):
                base = structure[1] if len(structure) == 2 else None
                scene = Scene(shape=structure[0], colour=colour, base=base, base_colour=base_colour)
                if scene.held_out == held_out:
                    found.append(scene)
    return found


def parse(prompt: str) -> tuple[Scene, str | None]:
    """Scene and view that a prompt names.

    Raises:
        InvalidInput: an empty prompt, words outside the vocabulary (they are named), or words in another order.

    Example:
        >>> parse("a red cube on a blue cylinder, side view")[1]
        'side'
    """
    check_words(prompt)
    colours, shapes = "|".join(COLOURS), "|".join(SHAPES + COMPOSITES)
    pattern = (
        rf"an? ({colours}) ({shapes})(?: on an? ({colours}) ({'|'.join(BASES)}))?"
        rf"(?: ?, ({'|'.join(BACKGROUNDS)}) background)?(?: ?, ({'|'.join(VIEWS)}) view)?"
    )
    match = re.fullmatch(pattern, " ".join(prompt.lower().split()))
    if match is None:
        raise InvalidInput(
            f"the prompt {prompt!r} names no scene: write, for example, 'a red cube on a blue cylinder, grey background, front view'"
        )
    colour, shape, base_colour, base, background, view = match.groups()
    return Scene(shape=shape, colour=colour, base=base, base_colour=base_colour, background=background), view


def check_words(prompt: str) -> None:
    """Raise `InvalidInput` for an empty prompt and for words outside the vocabulary, naming them."""
    found = re.findall(r"[^\s,]+|,", prompt.lower())
    if not found:
        raise InvalidInput("the prompt is empty: write, for example, 'a red cube on a blue cylinder'")
    unknown = [word for word in dict.fromkeys(found) if word not in WORDS]
    if unknown:
        known = " ".join(word for word in WORDS if word != ",")
        raise InvalidInput(f"the vocabulary of this prior does not contain {', '.join(map(repr, unknown))}; its words are {known}")


def without_background(prompt: str) -> str:
    """The prompt without the name of its background.

    Example:
        >>> without_background("a red cube, navy background, front view")
        'a red cube, front view'
    """
    return re.sub(rf"\s*,\s*({'|'.join(BACKGROUNDS)}) background", "", prompt, flags=re.IGNORECASE)
