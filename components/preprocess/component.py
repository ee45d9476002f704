"""Preprocessing as a Kubeflow component."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def preprocess(
    source: str,
    location: str,
    image_size: int,
    channels: int,
    max_rejected: float,
    beam_options: list,
    dataset: dsl.Output[dsl.Dataset],
) -> None:
    """Resizes images into TFRecord shards with Beam.

    Args:
        source: CelebA as distributed, a folder of images, or a zip of either; local or gs://.
        location: Data set folder, local or gs://.
        image_size: Height and width in pixels.
        channels: 1 for grey, 3 for RGB.
        max_rejected: Share of the inputs that may be refused.
        beam_options: Beam's own options, such as --runner=DataflowRunner.
        dataset: dataset.json; its metadata tells where the shards are.
    """
    from components.preprocess.preprocess import preprocess
    from components.step import reporting

    with reporting():
        preprocess(source, location, image_size, channels, max_rejected, beam_options, dataset.path)
    dataset.metadata["location"] = location
