"""What an evaluation costs: each network beside the same run bare, each metric and figure, the whole.

Without folders it evaluates the demo's kind of models, trained for a few steps: what they learned makes no
difference to the time. Run it on an otherwise idle machine.

    python benchmarks/evaluate.py [--dataset DIR --vae DIR --gan DIR]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import latentfaces
from latentfaces.common.config import EvaluateOptions
from latentfaces.common.program import import_tensorflow, start_logging

COUNT = 2048  # images or latents that a network is timed with
PASSES = 3  # of which the best counts


def make(folder: Path) -> dict[str, str]:
    """Draws faces as the demo does and trains both models for some steps; returns where they are."""
    places = {name: str(folder / name) for name in ("dataset", "vae", "gan")}
    latentfaces.synthesize(str(folder / "faces"), count=3000, seed=0)
    latentfaces.preprocess(str(folder / "faces"), places["dataset"], image_size=32)
    for model in ("vae", "gan"):
        latentfaces.train(model, places["dataset"], places[model], preset="small", steps=20)
    return places


def seconds(call: Callable[[], Any]) -> float:
    """Returns the time that a call takes, the best of several after one that doesn't count."""
    call()
    times = []
    for _ in range(PASSES):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def time_network(name: str, network: Any) -> None:
    """Prints a network's rate beside that of the same Keras model in one compiled call after another."""
    import tensorflow as tf

    shape = network.input_shape
    data = np.random.default_rng(0).random((COUNT, *shape), np.float32)
    bare = tf.function(lambda batch: network.model(batch, training=False))
    batches = [tf.constant(data[start : start + 256]) for start in range(0, COUNT, 256)]
    ours = COUNT / seconds(lambda: network(data))
    alone = COUNT / seconds(lambda: [bare(batch) for batch in batches])
    print(f"{name:34} {ours:10,.0f} images/s, bare {alone:10,.0f}, ratio {ours / alone:.2f}")


def main() -> None:
    """Prints all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("dataset", "vae", "gan"):
        parser.add_argument(f"--{name}", default="")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value}
    start_logging()
    with tempfile.TemporaryDirectory() as scratch:
        places = given if "dataset" in given else make(Path(scratch))
        dataset, models = places["dataset"], {name: places[name] for name in ("vae", "gan") if name in places}

        start = time.perf_counter()
        latentfaces.evaluate(dataset, f"{scratch}/evaluation", models)
        whole = time.perf_counter() - start
        page = Path(scratch, "evaluation", "report.html").stat().st_size
        print(f"the whole evaluation {whole:.1f} s, report {page / 1e6:.1f} MB")

        import_tensorflow()
        from latentfaces.components.evaluate.figures import FIGURES
        from latentfaces.components.evaluate.inputs import Autoencoder, Inputs
        from latentfaces.components.evaluate.metrics import METRICS

        inputs = Inputs(dataset, models, EvaluateOptions())
        for model in inputs.models:
            time_network(f"{model.title} {model.generator_name}", model.generator)
            if isinstance(model, Autoencoder):
                time_network(f"{model.title} encoder", model.encoder)
        print("\nEach metric and figure in its turn; what several work from counts for the first that asks.")
        for kind, registry in (("metric", METRICS), ("figure", FIGURES)):
            start = time.perf_counter()
            for found in registry.run(inputs):
                if kind == "figure":
                    _ = found.content.files  # encoded
                print(f"{kind} {found.name:26} {time.perf_counter() - start:6.2f} s")
                start = time.perf_counter()


if __name__ == "__main__":
    main()
