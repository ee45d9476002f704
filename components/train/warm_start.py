"""Warm start: training begins from the weights of the promoted model.

These are the networks as they were saved, of a GAN also the discriminator, and of a generator whose weights
were averaged the averages. Optimizers, their averages and the learning rate's schedule begin anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latentfaces.common import storage
from latentfaces.common.config import TrainConfig
from latentfaces.common.errors import UserError
from latentfaces.common.model_folder import brief, check_weights, read_config, read_network
from latentfaces.common.models import find_model
from latentfaces.common.promoted import model_folder, read
from latentfaces.common.storage import AnyPath

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)


def choose(config: TrainConfig, folder: AnyPath) -> TrainConfig:
    """Settles from which run's weights a run begins: the promoted one's, if its networks are the same.

    Args:
        config: what is trained.
        folder: the model folder, `ROOT/runs/RUN/MODEL`.

    Returns:
        The configuration with `initial_run` and `initial_digest`; as it was where there is none to begin
        from, and a line says why.

    Raises:
        UserError: if the folder lies in no root, or the root's `promoted.json` is damaged.
    """
    root = _root(folder)
    run = read(root).models.get(config.model)
    title = find_model(config.model).title
    try:
        if run is None:
            raise ValueError("none is promoted")
        source = storage.resolve(model_folder(root, run, config.model))
        earlier = read_config(source)
        for field in ("model", "preset", "image_shape", "latent_dim"):
            old, new = getattr(earlier, field), getattr(config, field)
            if old != new:
                raise ValueError(f"the promoted one's {field} is {old}, and this one's {new}")
        digest = hashlib.sha256(b"".join(_networks(source, config).values())).hexdigest()
    except (UserError, OSError, ValueError, zipfile.BadZipFile) as error:
        logger.warning("the %s can't begin from promoted weights, and starts from scratch: %s", title, error)
        return config
    logger.info("the %s begins from the weights of run %s", title, run)
    return dataclasses.replace(config, initial_run=run, initial_digest=digest)


def load(config: TrainConfig, folder: AnyPath, networks: dict[str, keras.Model]) -> None:
    """Gives networks the weights that `choose` has settled, on every worker and at every retry the same.

    If they are of other networks, which only a network can tell, all keep those that they have.

    Args:
        config: of the run, as `config.json` in its folder has it.
        folder: the model folder.
        networks: the model's, by name.

    Raises:
        UserError: if those weights are gone, or are others by now.
    """
    from latentfaces.components.train.convolution import portable

    source = storage.resolve(model_folder(_root(folder), config.initial_run, config.model))
    try:
        found = _networks(source, config)
        if hashlib.sha256(b"".join(found.values())).hexdigest() != config.initial_digest:
            raise ValueError("they are others than those that it began from")
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"the weights in {source}, from which this run begins, can't be read ({brief(error)}): remove "
            f"{folder}, and start again"
        ) from None
    weights = {}
    for name, network in networks.items():
        copy = portable(network)  # under whose layers the weights were saved
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / f"{name}.keras"
            file.write_bytes(found[name])
            try:
                copy.load_weights(file)
            except (ValueError, KeyError, TypeError) as error:
                title = find_model(config.model).title
                logger.warning(
                    "the %s starts from scratch: %s fits another %s (%s)", title, source, name, brief(error)
                )
                return
        weights[name] = copy.get_weights()
    for name, network in networks.items():
        network.set_weights(weights[name])


def _root(folder: AnyPath) -> str:
    """The root of a pipeline in which a model folder lies; links may lead there, or out of there."""
    places: Sequence[AnyPath] = [folder]
    if isinstance(folder, Path):
        places = [folder.absolute()] * (".." not in folder.parts) + [folder.resolve()]
    for place in places:
        if place.parent.parent.name == "runs":
            return str(place.parent.parent.parent)
    raise UserError(
        f"--warm-start looks for the promoted model in a pipeline's root, and {folder} lies in none: "
        "give an output such as ROOT/runs/RUN/MODEL"
    )


def _networks(source: AnyPath, config: TrainConfig) -> dict[str, bytes]:
    """The files of a model's networks, whole and safe to read, by name."""
    found = {name: read_network(source / f"{name}.keras") for name in find_model(config.model).network_names}
    for data in found.values():
        check_weights(data)
    return found
