"""The optimisation loop, the settings of each method, and `distill`, which joins them."""

from modeseek.distillation.interface import distill as distill
from modeseek.distillation.loop import Step as Step
from modeseek.distillation.loop import Stop as Stop
from modeseek.distillation.recipes import RECIPES as RECIPES
from modeseek.distillation.recipes import Recipe as Recipe
from modeseek.distillation.recommend import VIEW_RECIPES as VIEW_RECIPES
from modeseek.distillation.recommend import recommend as recommend
