"""Model families: what one is, and the registry of those that can be trained.

The registry holds names of modules, which are imported when a model is asked for; none of them imports
TensorFlow before it builds a network.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from latentfaces.common.config import TrainConfig
from latentfaces.common.errors import UserError
from latentfaces.common.options import flag, options_of, parameters, type_and_option

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

# The models of each family; the first speaks for the family.
MODELS = {
    "vae": (
        "latentfaces.components.train.models.vae:VAE",
        "latentfaces.components.train.models.faces_vae:FacesVAE",
    ),
    "gan": (
        "latentfaces.components.train.models.dcgan:DCGAN",
        "latentfaces.components.train.models.r1gan:R1GAN",
    ),
}


@dataclass(frozen=True)
class Preset:
    """Networks and settings that go together.

    Attributes:
        side_multiple: what the networks' strides divide the images' sides by.
        settings: values of the family's configuration; `batch_size`, `epochs`, `latent_dim` and
            `learning_rate` at least.
        cpu: CPUs that a worker's pod asks for, where nothing else is said.
        memory: its memory, as Kubernetes writes amounts.
    """

    side_multiple: int
    settings: Mapping[str, Any]
    cpu: str = "2"
    memory: str = "6Gi"


class Model(ABC):
    """A model family; an instance is one that is trained, made under `strategy.scope()`.

    Attributes:
        title: as people write it.
        Config: the family's configuration.
        presets: by name.
        default_preset: the pipeline's.
        loss_names: of the losses that `step` returns, in order.
        generator: the network that makes images of latents.
        encoder: the network that makes latents of images, where there is one: [z_mean, z_log_var].
        prior: the network that makes latents such as the images' of normally distributed noise, where there
            may be one: the configuration's `learned_prior` says whether there is.
        network_names: of all networks, as their files are called; those of a family's first model are in all
            of them.
        networks: by name.
        state: what a checkpoint holds, name to trackable object.
        begins_with: train images that `begin` wants to see, at most.
        ends_with: those that `finish` does.
    """

    title: ClassVar[str]
    Config: ClassVar[type[TrainConfig]] = TrainConfig
    presets: ClassVar[Mapping[str, Preset]]
    default_preset: ClassVar[str]
    loss_names: ClassVar[tuple[str, ...]]
    generator: ClassVar[str]
    encoder: ClassVar[str | None] = None
    prior: ClassVar[str | None] = None
    network_names: ClassVar[tuple[str, ...]]
    networks: dict[str, keras.Model]
    state: dict[str, Any]
    begins_with: int = 0
    ends_with: int = 0

    @abstractmethod
    def __init__(self, config: TrainConfig) -> None:
        """Builds networks and optimizers; `config` is of the family's class."""

    @abstractmethod
    def step(self, images: tf.Tensor, noise: Any) -> dict[str, tf.Tensor]:
        """Trains on one replica's share of a global batch.

        Args:
            images: floats in [0, 1], [local batch size, H, W, C].
            noise: the `GlobalBatchNoise` of this replica and step.

        Returns:
            The losses by name, each this replica's sum divided by the global count, so that the sum over the
            replicas is the mean over the global batch.
        """

    def begin(  # noqa: B027 - most begin at random
        self, images: Iterable[np.ndarray], chiefs: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        """May choose initial weights by train images; called before the first step only.

        Args:
            images: in batches, uint8 [N, H, W, C], together at most `begins_with`, the same on every worker.
            chiefs: returns to every worker the array that the chief gives: machines round differently.
        """

    def sample(self, noise: np.ndarray) -> tf.Tensor:
        """Returns images, floats in [0, 1], [N, H, W, C], of normally distributed noise [N, latent_dim]."""
        return self.networks[self.generator](noise, training=False)

    def watch(self, losses: dict[str, float]) -> dict[str, float]:
        """May warn, or change settings of its own, where the losses call for it.

        Args:
            losses: the means of some steps, the same on every worker.

        Returns:
            What is recorded beside the losses.
        """
        return {}

    def finish(  # noqa: B027 - some have nothing left to do
        self, images: Iterable[np.ndarray], on_progress: Callable[[], object]
    ) -> None:
        """The last thing before the networks are saved, of which only the chief's are.

        Args:
            images: train images in batches, uint8 [N, H, W, C], together at most `ends_with`.
            on_progress: called every few seconds at least; it may raise `SystemExit`.
        """


def find_model(name: str, preset: str | None = None) -> type[Model]:
    """Returns the model of a family that has a preset, or without one the family's first.

    Raises:
        UserError: if there is none.
    """
    models = _models(name)
    if preset is None:
        return models[0]
    for model in models:
        if preset in model.presets:
            return model
    title, known = models[0].title, ", ".join(presets(name))
    raise UserError(f"preset {preset} is unknown for the {title}: choose one of {known}")


def _models(name: str) -> list[type[Model]]:
    if name not in MODELS:
        raise UserError(f"model {name} is unknown: choose one of {', '.join(MODELS)}")
    places = [place.partition(":") for place in MODELS[name]]
    return [getattr(importlib.import_module(module), model) for module, _, model in places]


def settle(name: str, options: Mapping[str, Any], image_shape: tuple[int, int, int]) -> TrainConfig:
    """Settles what is trained, as far as it can be without a data set.

    Args:
        name: of the model family.
        options: those of its configuration's options that are not left to the preset or the default.
        image_shape: (height, width, channels) of the images.

    Returns:
        The configuration, without a data set, and with 0 steps where the user counts in epochs.

    Raises:
        UserError: if an option is wrong, or the networks can't make such images.
    """
    preset = options.get("preset", "")
    model = find_model(name, preset)
    height, width, _ = image_shape
    multiple = model.presets[preset].side_multiple
    if height % multiple or width % multiple:
        raise UserError(
            f"preset {preset} of the {model.title} needs images whose sides are multiples of {multiple}, "
            f"and these are {height}x{width}: preprocess with another --image-size"
        )
    if options.get("epochs") and options.get("steps"):
        raise UserError("--epochs and --steps exclude each other: give one of them")
    known = options_of(model.Config)
    others = {each.name for each in all_parameters()}
    for key, value in options.items():
        if key not in known and (value or key not in others):
            raise UserError(f"{flag(key)} is not an option of the {model.title} {preset}: leave it out")
    given = {key: value for key, value in options.items() if key in known and value}
    return model.Config(
        **{**model.presets[preset].settings, **given, "model": name, "image_shape": image_shape}
    )


def all_parameters() -> list[inspect.Parameter]:
    """Returns the options of every model, each once; all but `preset` have a default."""
    found = {each.name: each for name in MODELS for each in _options(name)}
    names = (f"{', '.join(presets(name))} for the {find_model(name).title}" for name in MODELS)
    found["preset"] = _explained(found["preset"], f"Networks and settings: {'; '.join(names)}.")
    return list(found.values())


def joint_parameters() -> list[inspect.Parameter]:
    """Returns the options of all models that are trained together, as a pipeline's parameters.

    A model's own options have its name in front, "vae_epochs"; those that all share have not.
    """
    result = {}
    for name in MODELS:
        for each in _options(name):
            if each.name == "preset":
                each = _explained(each, f"Networks and settings: {', '.join(presets(name))}.")
                each = each.replace(default=find_model(name).default_preset)
            if not type_and_option(each)[1].shared:
                each = each.replace(name=f"{name}_{each.name}")
            result[each.name] = each
    return list(result.values())


def presets(name: str) -> dict[str, Preset]:
    """Returns the presets of a family's models."""
    return {preset: said for model in _models(name) for preset, said in model.presets.items()}


def _options(name: str) -> list[inspect.Parameter]:
    """The options of a family's models, each once."""
    return list({each.name: each for model in _models(name) for each in parameters(model.Config)}.values())


def _explained(parameter: inspect.Parameter, text: str) -> inspect.Parameter:
    kind, said = type_and_option(parameter)
    return parameter.replace(annotation=Annotated[kind, dataclasses.replace(said, help=text)])


def joint_options(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns one model's options among the values of `joint_parameters`, under their own names."""
    found = {each.name: type_and_option(each)[1] for each in _options(name)}
    return {key: values[key if said.shared else f"{name}_{key}"] for key, said in found.items()}


def config_from_json(text: str) -> TrainConfig:
    """Returns the configuration that `TrainConfig.to_json` wrote.

    Raises:
        ValueError, TypeError or KeyError: if it is not one of this version.
        UserError: if it names a model or an option's value that there is not.
    """
    values = json.loads(text)
    values["image_shape"] = tuple(values["image_shape"])
    return find_model(values["model"], values["preset"]).Config(**values)
