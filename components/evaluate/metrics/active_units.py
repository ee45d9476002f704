"""How many latents a VAE uses."""

import numpy as np

from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.registry import Fact, Result, register_metric

LEAST = 0.01  # variance


@register_metric("{model}", about=Autoencoder)
def active_units(model: Autoencoder) -> Result:
    """`active_units`, the latents whose posterior mean depends on the image, of all `latents`.

    Those whose variance over the held-out images is above 0.01 (Burda et al. 2016, arXiv:1509.00519).
    """
    active = int(np.sum(np.var(model.means, axis=0, dtype=np.float64) > LEAST))
    fact = Fact("Latents in use (active units)", f"{active} of {model.latent_dim}")
    return Result({"active_units": active, "latents": model.latent_dim}, [fact])
