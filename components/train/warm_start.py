"""Warm start: training begins from the weights of the promoted model, or of the one that `--init` names.

These are the networks as they were saved, of a GAN also the discriminator, and of a generator whose weights
were averaged the averages. Optimizers, their averages and the learning rate's schedule begin anew; a VAE's
prior is learned anew.
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
        digest = _fitting(source, config)
    except (UserError, OSError, ValueError, zipfile.BadZipFile) as error:
        logger.warning("the %s can't begin from promoted weights, and starts from scratch: %s", title, error)
        return config
    logger.info("the %s begins from the weights of run %s", title, run)
    return dataclasses.replace(config, initial_run=run, initial_digest=digest)


def begin_from(init: str, config: TrainConfig) -> TrainConfig:
    """Settles that a run begins from the weights in a model folder, which may be a stranger's.

    Args:
        init: the model folder, local or `gs://`.
        config: what is trained.

    Returns:
        The configuration with `initial_run` and `initial_digest`.

    Raises:
        UserError: if there is no such model, it is damaged, or its networks are others.
    """
    source = storage.resolve(init)
    if not (source / "config.json").exists():
        raise UserError(f"--init {init} is no model folder, for it holds no config.json: correct the name")
    title = find_model(config.model).title
    try:
        digest = _fitting(source, config)
    except (UserError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"the {title} can't begin from --init {init}: {error}") from None
    logger.info("the %s begins from the weights in %s", title, init)
    return dataclasses.replace(config, initial_run=located(init), initial_digest=digest)


def located(init: str) -> str:
    """Returns what `initial_run` says of a model folder: where it is, however one gets there."""
    place = storage.resolve(init)
    return str(place.resolve() if isinstance(place, Path) else place)


def load(config: TrainConfig, folder: AnyPath, networks: dict[str, keras.Model]) -> None:
    """Gives networks the weights that were settled, on every worker and at every retry the same.

    If a promoted model's are of other networks, which only a network can tell, all keep those that they have.

    Args:
        config: of the run, as `config.json` in its folder has it.
        folder: the model folder.
        networks: the model's, by name.

    Raises:
        UserError: if those weights are gone, or are others by now, or if those of `--init` are of other
            networks.
    """
    from latentfaces.components.train.convolution import portable

    place = config.initial_run
    if config.warm_start:
        place = model_folder(_root(folder), config.initial_run, config.model)
    source = storage.resolve(place)
    try:
        found = _networks(source, config)
        if _digest(found) != config.initial_digest:
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
                misfit = f"{source} fits another {name} ({brief(error)})"
                if not config.warm_start:
                    message = f"{misfit}: remove {folder}, and start again with another --init"
                    raise UserError(message) from None
                logger.warning("the %s starts from scratch: %s", title, misfit)
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


def _fitting(source: AnyPath, config: TrainConfig) -> str:
    """Returns the digest of a model's networks, which are whole and such as the configuration asks for.

    Raises:
        UserError, OSError, ValueError or zipfile.BadZipFile: if they are not.
    """
    earlier = read_config(source)
    for field in ("model", "preset", "image_shape", "latent_dim"):
        old, new = getattr(earlier, field), getattr(config, field)
        if old != new:
            raise ValueError(f"the {field.replace('_', ' ')} there is {old}, and here {new}")
    return _digest(_networks(source, config))


def _digest(networks: dict[str, bytes]) -> str:
    return hashlib.sha256(b"".join(networks.values())).hexdigest()


def _networks(source: AnyPath, config: TrainConfig) -> dict[str, bytes]:
    """The files of a model's networks, whole and safe to read, by name."""
    found = {}
    for name in find_model(config.model).network_names:
        try:
            found[name] = read_network(source / f"{name}.keras")
        except FileNotFoundError:
            raise ValueError(f"{name}.keras, the end of its training, is not there") from None
    for data in found.values():
        check_weights(data)
    return found
