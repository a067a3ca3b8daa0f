"""The embedded prior's world: captions, the exact solids behind them, pictures, and the training of a text-to-image prior on them."""

from modeseek.solids.rendering import Cameras as Cameras
from modeseek.solids.rendering import render as render
from modeseek.solids.rendering import view_cameras as view_cameras
from modeseek.solids.shapes import Solid as Solid
from modeseek.solids.shapes import solid as solid
from modeseek.solids.words import Scene as Scene
from modeseek.solids.words import parse as parse
