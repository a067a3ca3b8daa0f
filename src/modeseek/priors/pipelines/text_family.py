"""What the families with text encoders share: checks of the prompts, negative prompts, embeddings in place of texts, default guidance."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modeseek.core.errors import InvalidInput
from modeseek.priors.pipelines.base import Conditions, GuidanceKind
from modeseek.priors.pipelines.distilled import distillation, pipeline_guidance
from modeseek.priors.pipelines.text import PromptEmbeds, Prompts, Reader, check_prompts, checked_embeds, warn_of_cuts

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_ATTENTION = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
ENCODERS = tuple(f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3"))


@dataclass(frozen=True, kw_only=True, eq=False)
class TextFamily:
    """A network conditioned on text. A subclass defines `readers`, `encode` and `predict`; it is a `Family`.

    Args:
        pipeline: diffusers' object.
        device: of the conditions.
        part: attribute of the pipeline that holds the denoising network.
        guidance: "classifier-free" or "embedded", see `GuidanceKind`.
        lora_targets: ends of the names of the layers that VSD's LoRA adapts.
        name: of the folder or file it was loaded from, which may say that the model is distilled.
    """

    pipeline: Any
    device: torch.device
    part: str = "transformer"
    guidance: GuidanceKind = "classifier-free"
    lora_targets: tuple[str, ...] = ATTENTION + TEXT_ATTENTION
    name: str = ""

    kinds: ClassVar[tuple[str, ...]] = ("flow",)
    """Kinds of `Levels` that the network can be called with."""
    encoders: ClassVar[tuple[str, ...]] = ENCODERS
    """Parts of the pipeline that turn prompts into conditions: when one changes, prompts are encoded again."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Further conditions that `conditions` takes by name."""

    @property
    def network(self) -> nn.Module:
        """The denoising network."""
        return getattr(self.pipeline, self.part)

    @property
    def distillation(self) -> str | None:
        """Why the model is treated as distilled to need no guidance; None if it is not."""
        return None if self.guidance == "embedded" else distillation(self.pipeline, self.network, self.name)

    @property
    def default_guidance(self) -> float:
        """The scale used where none is given: the pipeline's own default, 1 for a model distilled to need none."""
        return 1.0 if self.distillation else pipeline_guidance(self.pipeline)

    def conditions(self, prompts: Prompts, **settings: Any) -> Conditions:
        """The inputs for each prompt.

        Raises:
            InvalidInput: an empty prompt, embeddings of another shape, or a setting that the family does not have.

        Warns:
            PromptCut: a text encoder reads only the beginning of a prompt.
        """
        unknown = [name for name in settings if name not in self.settings]
        if unknown:
            taken = f"it takes {', '.join(self.settings)}" if self.settings else "it takes prompts alone"
            raise InvalidInput(f"{type(self.pipeline).__name__} has no condition {', '.join(unknown)}: {taken}")
        if isinstance(prompts, PromptEmbeds):
            return self.embedded(prompts)
        texts = check_prompts(prompts)
        self.check_encoders()
        warn_of_cuts(texts, self.readers(), self.pipeline)
        return self.encode(texts, **settings)

    def opposite(self, negatives: Sequence[str | None] | PromptEmbeds, **settings: Any) -> Conditions:
        """The inputs for the negative prompts, one row each; None is what the pipeline takes where no negative prompt is given."""
        if isinstance(negatives, PromptEmbeds):
            return self.embedded(negatives)
        self.check_encoders()
        warn_of_cuts([text for text in negatives if text], self.readers(), self.pipeline)
        return self.encode([text or "" for text in negatives], negative=True)

    def readers(self) -> list[Reader]:
        """(tokenizer, longest sequence) of each text encoder."""
        raise NotImplementedError

    def encode(self, prompts: list[str], *, negative: bool = False) -> Conditions:
        """Texts to inputs of the network, one row per text; `negative` where the pipeline encodes negative prompts differently."""
        raise NotImplementedError

    def embedded(self, embeds: PromptEmbeds) -> Conditions:
        """Embeddings to inputs of the network."""
        checked_embeds(embeds, width=None)
        return {"tokens": embeds.tokens.to(self.device)}

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """The network's prediction at z (batch, *event) and t (batch,)."""
        raise NotImplementedError

    def check_encoders(self) -> None:
        """Raise `InvalidInput` if the pipeline has no text encoder left."""
        if not any(getattr(self.pipeline, name, None) is not None for name in ENCODERS if name.startswith("text_encoder")):
            raise InvalidInput("this pipeline has no text encoder: give embeddings (PromptEmbeds) in place of prompts")


MARKER = "\u2603"  # stands for the prompt in a template


def call_default(pipeline: Any, name: str) -> Any:
    """The default of an argument of a pipeline's `__call__`: what its own sampler uses."""
    return inspect.signature(type(pipeline).__call__).parameters[name].default


def padded(rows: Tensor, length: int) -> Tensor:
    """Rows (batch, n, ...) with zeros appended up to `length`, so that the conditions of D_c and D_u can be concatenated.

    Example:
        >>> padded(torch.ones(1, 2), 4)
        tensor([[1., 1., 0., 0.]])
    """
    return torch.cat([rows, rows.new_zeros(len(rows), length - rows.shape[1], *rows.shape[2:])], 1)


def template_tokens(tokenizer: Any, render: Callable[[str], str]) -> int:
    """Number of tokens that a chat template puts before the prompt; they count towards the longest sequence.

    Args:
        tokenizer: the tokenizer.
        render: a prompt to the text that is tokenized.
    """
    before = render(MARKER).split(MARKER)[0]
    return len(tokenizer(before, add_special_tokens=False).input_ids)
