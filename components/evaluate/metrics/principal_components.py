"""The line for an autoencoder to beat: a linear one, which needs no training."""

from sklearn.decomposition import PCA

from latentfaces.common.images import to_float
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.metrics.reconstruction import mean_squared_error, psnr
from latentfaces.components.evaluate.registry import Fact, Result, register_metric

FITTED = 4000  # train images, at most


@register_metric("{model}", about=Autoencoder)
def principal_components(model: Autoencoder) -> Result | None:
    """`principal_components_psnr_db` of the held-out images, from as many numbers as the model has latents.

    None where there are not as many train images, or values in an image.
    """
    real = model.inputs.real
    train = real.train[:FITTED].reshape(len(real.train[:FITTED]), -1)
    if min(train.shape) <= model.latent_dim:
        return None
    fitted = PCA(model.latent_dim, svd_solver="randomized", random_state=0).fit(to_float(train))
    rows = to_float(real.held_out.reshape(len(real.held_out), -1))
    made = fitted.inverse_transform(fitted.transform(rows)).clip(0, 1).reshape(real.held_out.shape)
    decibels = psnr(mean_squared_error(real.held_out, made))
    label = f"Reconstruction error of {model.latent_dim} principal components (PSNR), the line to beat"
    return Result({"principal_components_psnr_db": decibels}, facts=[Fact(label, f"{decibels:.1f} dB")])
