"""Where the encoder puts the data set."""

import numpy as np

from latentfaces.components.evaluate.concepts import two_concepts
from latentfaces.components.evaluate.inputs import Autoencoder, RealImages
from latentfaces.components.evaluate.plot import KINDS, scatter
from latentfaces.components.evaluate.registry import Picture, register_figure


@register_figure("encoded", about=Autoencoder)
def encoded(model: Autoencoder) -> Picture | None:
    """A point for the latents of each held-out image, coloured by its labels.

    In the plane of two latents; of more, in that of two concept vectors, or of the first two principal
    components where there are no two concepts that work.
    """
    if min(model.means.shape) < 2:
        return None
    centred = model.means - model.means.mean(axis=0)
    if model.latent_dim == 2:
        points, names, where = model.means, ("z[0]", "z[1]"), "the plane of the two latents"
    elif pair := two_concepts(model):
        vectors = np.stack([concept.vector for concept in pair])
        points, names = centred @ np.linalg.pinv(vectors), (pair[0].name, pair[1].name)
        where = (
            f"the plane of the concept vectors “{names[0]}” and “{names[1]}”: how many times either vector "
            "an image is away from the mean, by least squares"
        )
    else:
        points = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
        names = ("first principal component", "second principal component")
        where = "the plane of the first two principal components of the latents"
    kinds, legend = _labels(model.inputs.real, names)
    caption = f"The latents of the {len(points):,} held-out images in {where}."
    if len(legend) > 1:
        caption += " Images of one label should lie together, apart from the others."
    alt = f"A cloud of points, one for each image: {', '.join(legend)}."
    return Picture("The encoded data set", caption, alt, scatter(points, kinds, legend, names))


def _labels(real: RealImages, wanted: tuple[str, str]) -> tuple[np.ndarray, list[str]]:
    """Returns an index in the labels for each held-out image, and the labels.

    These are the attributes, where none goes with another, as with classes; else all combinations of those
    that are wanted, or of the first one.
    """
    attributes, names = real.held_out_attributes, real.attribute_names
    if attributes.sum(axis=1).max(initial=0) > 1:
        kept = [index for index, name in enumerate(names) if name in wanted] or [0]
        attributes, names = attributes[:, kept], [names[index] for index in kept]
    rows, kinds = np.unique(-attributes, axis=0, return_inverse=True)
    labels = [" and ".join(np.array(names)[row != 0]) or "others" for row in rows]
    return np.minimum(kinds, KINDS - 1), [*labels[: KINDS - 1], *["others"] * (len(labels) > KINDS - 1)]
