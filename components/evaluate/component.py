"""Evaluation as a Kubeflow component."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    dataset: dsl.Input[dsl.Dataset],
    vae: dsl.Input[dsl.Model],
    gan: dsl.Input[dsl.Model],
    destination: str,
    seed: int,
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
) -> str:
    """Renders what both models learned and measures it; returns where the report is.

    Args:
        dataset: dataset.json; its metadata tells where the shards are.
        vae: The VAE's model folder.
        gan: The GAN's model folder.
        destination: Folder for grids, report.html and metrics.json, local or gs://.
        seed: Of samples and classifier.
        metrics: The numbers.
        report: The report.
    """
    from components.step import import_tensorflow, reporting

    with reporting():
        import_tensorflow()
        from components.evaluate.evaluate import evaluate
        from components.evaluate.publish import publish_evaluation

        numbers = evaluate(dataset.metadata["location"], destination, vae.path, gan.path, seed)
        for name, value in publish_evaluation(numbers, destination, report.path).items():
            metrics.log_metric(name, value)
    return f"{destination}/report.html"
