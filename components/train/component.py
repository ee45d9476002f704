"""Training as a Kubeflow component."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(
    kind: str,
    dataset: dsl.Input[dsl.Dataset],
    location: str,
    preset: str,
    epochs: int,
    batch_size: int,
    workers: int,
    gpus_per_worker: int,
    seed: int,
    model: dsl.Output[dsl.Model],
) -> None:
    """Trains a VAE or a GAN, going on from the newest checkpoint at the location.

    Args:
        kind: vae or gan.
        dataset: dataset.json; its metadata tells where the shards are.
        location: Model folder, local or gs://.
        preset: Networks and settings, such as book or small.
        epochs: Passes over the train split; 0 for the preset's.
        batch_size: Global batch size; 0 for the preset's.
        workers: Worker processes.
        gpus_per_worker: GPUs of each worker.
        seed: Of all random numbers.
        model: config.json, the history and the networks.
    """
    from components.step import reporting
    from components.train.run import publish_model, train

    with reporting():
        train(
            kind,
            dataset.metadata["location"],
            location,
            preset=preset,
            epochs=epochs,
            batch_size=batch_size,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            seed=seed,
        )
        publish_model(kind, location, model.path)
    model.metadata["location"] = location
