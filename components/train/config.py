"""What a training run is: one frozen dataclass, and the presets it starts from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from preprocessing.errors import UserError


@dataclass(frozen=True)
class Preset:
    """The part of a run that a preset fixes; every length is counted in images or epochs.

    Attributes:
        batch_size: global batch size, the images of one step over all replicas.
        epochs: passes over the train split.
        latent_dim: dimensions of the latent space.
        learning_rate: Adam's, at the start.
        beta_1: Adam's first momentum.
        learning_rate_decay: whether the learning rate falls to 0 along half a cosine.
        pixel_deviation: standard deviation of the pixels around a VAE's reconstruction, whose KL term is then
            summed over the latents as in the formula (Kingma & Welling 2014, appendix B); 0 for the loss of
            the book's listing 12.26, cross-entropy with the KL term averaged over the latents.
        generator_average: decay of the exponential moving average of the generator that is saved, or 0
            to save the generator itself; a GAN's only.
    """

    batch_size: int
    epochs: int
    latent_dim: int
    learning_rate: float
    beta_1: float = 0.9
    learning_rate_decay: bool = False
    pixel_deviation: float = 0.0
    generator_average: float = 0.0


PRESETS: dict[str, dict[str, Preset]] = {
    "vae": {
        "book": Preset(batch_size=128, epochs=30, latent_dim=2, learning_rate=1e-3),
        "small": Preset(
            batch_size=32,
            epochs=30,
            latent_dim=64,
            learning_rate=2e-3,
            learning_rate_decay=True,
            pixel_deviation=0.1,
        ),
        "faces": Preset(
            batch_size=64,
            epochs=30,
            latent_dim=128,
            learning_rate=1e-3,
            learning_rate_decay=True,
            pixel_deviation=0.1,
        ),
    },
    "gan": {
        "book": Preset(batch_size=32, epochs=100, latent_dim=128, learning_rate=1e-4),
        "small": Preset(
            batch_size=32, epochs=60, latent_dim=64, learning_rate=3e-4, beta_1=0.5, generator_average=0.999
        ),
    },
}

# What the strides of a preset's networks divide the images' sides by.
SIDE_MULTIPLES: dict[str, dict[str, int]] = {
    "vae": {"book": 4, "small": 8, "faces": 16},
    "gan": {"book": 8, "small": 4},
}


@dataclass(frozen=True)
class TrainConfig(Preset):
    """Everything that decides what is trained; written to `config.json` in the model folder.

    Attributes:
        model: "vae" or "gan".
        preset: name of the preset, which also names the networks.
        image_shape: (height, width, channels) of the data set.
        dataset: location of the data set folder.
        dataset_digest: sha256 over the data set's shards, so that other data at that location is noticed.
        steps: training steps; follows from `epochs` unless the user counts in steps.
        seed: of all random numbers.
        precision: "float32", "float64", "mixed_bfloat16" or "mixed_float16".
        xla: whether gradients are computed by code that XLA compiled.
        rebalance: whether a discriminator that overpowers the generator is weakened.
    """

    model: str = ""
    preset: str = ""
    image_shape: tuple[int, int, int] = (0, 0, 0)
    dataset: str = ""
    dataset_digest: str = ""
    steps: int = 0
    seed: int = 0
    precision: str = "float32"
    xla: bool = False
    rebalance: bool = False

    def to_json(self) -> str:
        """Returns the configuration as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """Returns the configuration that `to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "image_shape": tuple(values["image_shape"])})


def find_preset(model: str, preset: str) -> Preset:
    """Returns the preset of that name.

    Raises:
        UserError: if there is no such model or preset.
    """
    if model not in PRESETS:
        raise UserError(f"Model '{model}' is unknown: choose one of {', '.join(PRESETS)}.")
    if preset not in PRESETS[model]:
        raise UserError(
            f"Preset '{preset}' is unknown for the {model.upper()}: "
            f"choose one of {', '.join(PRESETS[model])}."
        )
    return PRESETS[model][preset]


def check_sides(model: str, preset: str, height: int, width: int) -> None:
    """Checks that a preset's networks can make images of that size.

    Raises:
        UserError: if they can't, or there is no such model or preset.
    """
    find_preset(model, preset)
    multiple = SIDE_MULTIPLES[model][preset]
    if height % multiple or width % multiple:
        raise UserError(
            f"Preset '{preset}' of the {model.upper()} needs images whose sides are multiples of {multiple}, "
            f"and these are {height}x{width}: preprocess with another --image-size."
        )
