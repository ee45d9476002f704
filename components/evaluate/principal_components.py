"""The line for an autoencoder to beat: as many principal components, which need no training."""

from latentfaces.common.images import to_float
from latentfaces.common.principal_components import PrincipalComponents, fit
from latentfaces.components.evaluate.inputs import Autoencoder, once

FITTED = 4000  # train images, at most


@once
def principal_components(model: Autoencoder) -> PrincipalComponents | None:
    """As many as the model has latents; None where train images, or values in an image, are not more."""
    train = model.inputs.real.train[:FITTED]
    rows = to_float(train.reshape(len(train), -1))
    return None if min(rows.shape) <= model.latent_dim else fit(rows, model.latent_dim)
