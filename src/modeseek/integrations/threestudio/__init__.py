r"""A guidance for threestudio (Guo et al. 2023): every recipe of `modeseek.distillation.recipes` in its YAML files, as `modeseek-guidance`.

    guidance_type: "modeseek-guidance"      in place of "stable-diffusion-guidance" and others; `recipe` names the method

`config` holds the keys, `guidance` the guidance itself, `levels` timesteps that follow a schedule, `previews` the images of validation,
`state` checkpoints and processes. threestudio is imported by `register` only.
"""

from modeseek.integrations.threestudio.config import Config as Config
from modeseek.integrations.threestudio.config import recipe_of as recipe_of
from modeseek.integrations.threestudio.guidance import Guidance as Guidance
from modeseek.integrations.threestudio.registry import NAME as NAME
from modeseek.integrations.threestudio.registry import register as register
