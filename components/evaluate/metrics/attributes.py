"""Which attributes a classifier reads off real images, reconstructions and samples."""

import numpy as np

from latentfaces.components.evaluate.classifier import accuracy
from latentfaces.components.evaluate.inputs import Autoencoder, Inputs
from latentfaces.components.evaluate.registry import Fact, Result, Table, percent, register_metric

HEADLINE = "Eyeglasses"  # for the top of the page: small, and so what blurred reconstructions lose


@register_metric("attributes", about=Inputs)
def attributes(inputs: Inputs) -> Result | None:
    """For each attribute how often it is there, and how often it is read rightly, both in [0, 1].

    `real_share`, by the labels; `guessing`, the accuracy of always giving the commoner answer;
    `real_accuracy`; `reconstruction_accuracy`; and, as the classifier sees it, which may be too seldom, in
    which share of each model's samples it is, `<model>_share`, of the train images, `train_share`, and of the
    held-out ones, `held_out_share`.
    """
    names, labels = inputs.real.attribute_names, inputs.real.held_out_attributes
    if not names:
        return None
    share = labels.mean(axis=0)
    values = {
        "real_share": share,
        "guessing": np.maximum(share, 1 - share),
        "real_accuracy": accuracy(inputs.real_predictions, labels),
    }
    headings = {"guessing": "guessing", "real_accuracy": "accuracy,\nreal images"}  # in the order shown
    autoencoders = [model for model in inputs.models if isinstance(model, Autoencoder)]
    for number, autoencoder in enumerate(autoencoders):
        key = f"{autoencoder.name}_reconstruction_accuracy" if number else "reconstruction_accuracy"
        values[key] = accuracy(autoencoder.reconstruction_predictions, labels)
        headings[key] = f"accuracy,\n{f'{autoencoder.title} ' if number else ''}reconstructions"
    seen = {
        "train": ("train images", inputs.classifier(inputs.real.train)),
        "held_out": ("held-out images", inputs.real_predictions),
        **{model.name: (f"{model.title} samples", model.sample_predictions) for model in inputs.models},
    }
    for key, (images, predictions) in seen.items():
        values[f"{key}_share"] = np.mean(predictions > 0.5, axis=0)
        headings[f"{key}_share"] = f"seen in\n{images}"

    numbers = {
        name: {key: float(column[index]) for key, column in values.items()}
        for index, name in enumerate(names)
    }
    table = Table(
        "Attributes",
        "A small classifier, trained on real images of the train split, reads the attributes off "
        f"{len(labels)} held-out images{' and off their reconstructions' if autoencoders else ''}; "
        "“guessing” is the accuracy of always giving the commoner answer. It should see an attribute as "
        "often in samples as in train images; in held-out images tells how near that comes.",
        columns=["", *headings.values()],
        rows=[[name.replace("_", " "), *(percent(numbers[name][key]) for key in headings)] for name in names],
    )
    facts = []
    if HEADLINE in names and autoencoders:
        read = numbers[HEADLINE]["reconstruction_accuracy"]
        beside = f"off real images: {percent(numbers[HEADLINE]['real_accuracy'])}"
        facts.append(Fact(f"{HEADLINE} read rightly off reconstructions", percent(read), beside))
    return Result(numbers, facts, [table])
