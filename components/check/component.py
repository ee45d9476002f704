"""The check as a Kubeflow component."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check(
    source: str,
    root: str,
    destination: str,
    image_size: int,
    vae_preset: str,
    gan_preset: str,
    vae_batch_size: int,
    gan_batch_size: int,
    workers: int,
    gpus_per_worker: int,
) -> int:
    """Refuses what can't work before any long work starts, and returns the GPUs that a training step needs.

    Args:
        source: Images, local or gs://.
        root: Folder for the data set and the models.
        destination: Folder for the evaluation.
        image_size: Height and width in pixels.
        vae_preset: Preset of the VAE.
        gan_preset: Preset of the GAN.
        vae_batch_size: Global batch size of the VAE; 0 for the preset's.
        gan_batch_size: Global batch size of the GAN; 0 for the preset's.
        workers: Worker processes of a training step.
        gpus_per_worker: GPUs of each worker.
    """
    from components.check.check import check_locations
    from components.step import reporting
    from components.train.config import check_sides
    from components.train.run import check_training

    with reporting():
        check_locations(source, root, destination)
        check_sides("vae", vae_preset, image_size, image_size)
        check_sides("gan", gan_preset, image_size, image_size)
        check_training("vae", vae_preset, vae_batch_size, workers, gpus_per_worker)
        check_training("gan", gan_preset, gan_batch_size, workers, gpus_per_worker)
    return workers * gpus_per_worker
