"""How fast training is, beside the book's listings under Keras' `fit`, and what its safety costs.

Every measurement runs in fresh processes, in turns, and the best of several passes counts. Rates are of the
steady state, after the first steps. Run it on an otherwise idle machine.

    python benchmarks/train.py [--passes 2]
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from latentfaces.common.config import TrainConfig
from latentfaces.common.dataset import (
    VERSION,
    Dataset,
    ShardWriter,
    encode_example,
    make_splits,
    write_dataset,
)
from latentfaces.common.models import settle
from latentfaces.common.program import QUIET

VAE = {"shape": (28, 28, 1), "examples": 60_000, "batch": 128, "log": 100, "steps": 400}
GAN = {"shape": (64, 64, 3), "examples": 4_000, "batch": 32, "log": 15, "steps": 45}
CASES = {"vae": VAE, "gan": GAN}
SHARDS = 4


def make_dataset(folder: Path, shape: tuple[int, int, int], examples: int) -> Path:
    """Writes random images, which train as fast as others."""
    folder.mkdir()
    random, shards = np.random.default_rng(0), []
    for shard in range(SHARDS):
        name = f"train-{shard:05d}-of-{SHARDS:05d}.tfrecord"
        with ShardWriter((folder / name).open("wb")) as writer:
            for number, image in enumerate(random.integers(0, 256, (examples // SHARDS, *shape), np.uint8)):
                writer.write(encode_example(image.tobytes(), f"{shard}-{number}.png", None))
        shards.append(("train", writer.shard(name)))
    write_dataset(folder, Dataset(shape, (), make_splits(shards), 0, "random", VERSION))
    return folder


def train_command(model: str, dataset: Path, output: Path, *options: str) -> list[str]:
    """Returns the command that trains the book's model."""
    places = ["--dataset", str(dataset), "--output", str(output), "--preset", "book"]
    return [sys.executable, "-m", "latentfaces", "train", model, *places, *options]


def ours(model: str, dataset: Path, *options: str) -> float:
    """Steps/s of `latentfaces train`, all that it writes and shows included."""
    case = CASES[model]
    with tempfile.TemporaryDirectory() as output:
        counts = [f"--steps={case['steps']}", f"--log-steps={case['log']}"]
        command = train_command(model, dataset, Path(output), *counts, *options)
        subprocess.run(command, check=True, capture_output=True)
        rows = list(csv.DictReader((Path(output) / "history.csv").open()))
    first, last = rows[0], rows[-1]
    return (int(last["step"]) - int(first["step"])) / (float(last["seconds"]) - float(first["seconds"]))


def books_config(model: str) -> TrainConfig:
    """What is trained in the book."""
    return settle(model, {"preset": "book"}, CASES[model]["shape"])


def fresh(function: str, *arguments: object) -> float:
    """Calls a function of this file in a new process and returns the number that it prints."""
    command = [sys.executable, __file__, "--call", function, *map(str, arguments)]
    done = subprocess.run(command, check=True, text=True, capture_output=True, env=os.environ | QUIET)
    return float(done.stdout.split()[-1])


def keras_fit(model: str, eagerly: str = "") -> float:
    """Steps/s of the book's listing 12.27 or 12.36, of Keras' own layers, under `fit`; images in memory."""
    import keras
    import tensorflow as tf

    from latentfaces.common.models import find_model
    from latentfaces.components.train.convolution import portable

    case = CASES[model]
    networks = [portable(network) for network in find_model(model)(books_config(model)).networks.values()]
    count = case["batch"] * (case["steps"] // 4 if eagerly else case["steps"])
    images = np.random.default_rng(0).random((count, *case["shape"]), np.float32)
    if model == "vae":
        network = _books_vae(*networks)
        network.compile(optimizer=keras.optimizers.Adam(), run_eagerly=bool(eagerly))
    else:
        network = _books_gan(*networks)
        network.compile(
            d_optimizer=keras.optimizers.Adam(1e-4),
            g_optimizer=keras.optimizers.Adam(1e-4),
            loss_fn=keras.losses.BinaryCrossentropy(),
        )
    times: list[float] = []
    network.fit(
        tf.data.Dataset.from_tensor_slices(images).batch(case["batch"], drop_remainder=True).prefetch(2),
        epochs=1,
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: times.append(time.perf_counter())
            )
        ],
    )
    skipped = min(case["log"], len(times) // 4)
    return (len(times) - 1 - skipped) / (times[-1] - times[skipped])


def _books_vae(encoder, decoder):  # noqa: ANN001, ANN202 - Keras models
    import keras
    import tensorflow as tf

    class BooksVAE(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = encoder, decoder
            names = ("total_loss", "reconstruction_loss", "kl_loss")
            self.trackers = [keras.metrics.Mean(name=name) for name in names]

        def train_step(self, data: tf.Tensor) -> dict[str, tf.Tensor]:
            with tf.GradientTape() as tape:
                z_mean, z_log_var = self.encoder(data)
                z = z_mean + tf.exp(0.5 * z_log_var) * tf.random.normal(tf.shape(z_mean))
                reconstruction = self.decoder(z)
                reconstruction_loss = tf.reduce_mean(
                    tf.reduce_sum(keras.losses.binary_crossentropy(data, reconstruction), axis=(1, 2))
                )
                kl_loss = -0.5 * (1 + z_log_var - tf.square(z_mean) - tf.exp(z_log_var))
                total_loss = reconstruction_loss + tf.reduce_mean(kl_loss)
            gradients = tape.gradient(total_loss, self.trainable_weights)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
            losses = (total_loss, reconstruction_loss, tf.reduce_mean(kl_loss))
            for tracker, loss in zip(self.trackers, losses, strict=True):
                tracker.update_state(loss)
            return {tracker.name: tracker.result() for tracker in self.trackers}

    return BooksVAE()


def _books_gan(generator, discriminator):  # noqa: ANN001, ANN202 - Keras models
    import keras
    import tensorflow as tf

    class BooksGAN(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.discriminator, self.generator = discriminator, generator
            self.d_loss, self.g_loss = keras.metrics.Mean(name="d_loss"), keras.metrics.Mean(name="g_loss")

        def compile(self, d_optimizer: object, g_optimizer: object, loss_fn: object) -> None:
            super().compile()
            self.d_optimizer, self.g_optimizer, self.loss_fn = d_optimizer, g_optimizer, loss_fn

        def train_step(self, real_images: tf.Tensor) -> dict[str, tf.Tensor]:
            batch_size = tf.shape(real_images)[0]
            generated_images = self.generator(tf.random.normal((batch_size, 128)))
            combined_images = tf.concat([generated_images, real_images], axis=0)
            labels = tf.concat([tf.ones((batch_size, 1)), tf.zeros((batch_size, 1))], axis=0)
            labels += 0.05 * tf.random.uniform(tf.shape(labels))
            with tf.GradientTape() as tape:
                d_loss = self.loss_fn(labels, self.discriminator(combined_images, training=True))
            weights = self.discriminator.trainable_weights
            self.d_optimizer.apply_gradients(zip(tape.gradient(d_loss, weights), weights, strict=True))
            latents = tf.random.normal((batch_size, 128))
            with tf.GradientTape() as tape:
                predictions = self.discriminator(self.generator(latents), training=True)
                g_loss = self.loss_fn(tf.zeros((batch_size, 1)), predictions)
            weights = self.generator.trainable_weights
            self.g_optimizer.apply_gradients(zip(tape.gradient(g_loss, weights), weights, strict=True))
            self.d_loss.update_state(d_loss)
            self.g_loss.update_state(g_loss)
            return {"d_loss": self.d_loss.result(), "g_loss": self.g_loss.result()}

    return BooksGAN()


def matmul_peak() -> float:
    """Floating-point operations/s of a large float32 matrix product in TensorFlow, all cores."""
    import tensorflow as tf

    size, times = 3000, []
    a = tf.random.normal((size, size))
    for _ in range(8):
        started = time.perf_counter()
        tf.reduce_sum(a @ a).numpy()
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


def gan_step_operations() -> float:
    """Floating-point operations of the products in one step of the book's GAN: two for each multiply-add."""
    import keras

    from latentfaces.components.train.models import dcgan

    def forward(network: keras.Model) -> float:
        total = 0
        for layer in network.layers:
            if isinstance(layer, keras.layers.Dense):
                total += 2 * np.prod(layer.kernel.shape)
            elif isinstance(layer, keras.layers.Conv2DTranspose):
                total += 2 * np.prod(layer.kernel.shape) * np.prod(layer.input.shape[1:3])
            elif isinstance(layer, keras.layers.Conv2D):
                total += 2 * np.prod(layer.kernel.shape) * np.prod(layer.output.shape[1:3])
        return float(total)

    generator = forward(dcgan.book_generator(GAN["shape"], 128))
    discriminator = forward(dcgan.book_discriminator(GAN["shape"]))
    # Backwards, a layer costs as much again for its input's gradients, and once more for its weights'.
    # The discriminator learns from fakes and reals; the generator's step needs no gradients of its weights.
    return GAN["batch"] * (generator + 2 * 3 * discriminator + 3 * generator + 2 * discriminator)


def input_alone(folder: str, workers: str) -> float:
    """Images/s of worker 0's share of the batches of 64x64x3, shuffled, nothing done with them."""
    import tensorflow as tf

    from latentfaces.common.dataset import read_dataset
    from latentfaces.common.examples import open_split
    from latentfaces.components.train.batches import batches

    dataset = read_dataset(folder)
    count, batch, steps = int(workers), 256, 400
    elements = batches(
        open_split(folder, dataset, "train"),
        dataset.image_shape,
        seed=0,
        first_step=0,
        global_batch_size=batch * count,
        context=tf.distribute.InputContext(count, 0, count),
        replicas_on_worker=1,
    )
    started = 0.0
    for number, _ in enumerate(elements.take(50 + steps)):
        if number == 49:
            started = time.perf_counter()
    return batch * steps / (time.perf_counter() - started)


def checkpoint_seconds() -> float:
    """Seconds to save a checkpoint of the book's GAN with its optimizers in a local folder."""
    from latentfaces.common.models import find_model
    from latentfaces.components.train.checkpoints import Checkpoints

    model = find_model("gan")(books_config("gan"))
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), model.state, 2)
        times = []
        for step in range(5):
            started = time.perf_counter()
            checkpoints.save(step, np.zeros((0, 2)))
            times.append(time.perf_counter() - started)
    return min(times)


def random_seconds() -> float:
    """Seconds that the reproducible random numbers of one step of the book's GAN take."""
    import tensorflow as tf

    from latentfaces.components.train.noise import GlobalBatchNoise

    @tf.function
    def draw(step: tf.Tensor) -> tf.Tensor:
        noise = GlobalBatchNoise(0, step, tf.constant(0, tf.int64), GAN["batch"], GAN["batch"])
        latents = [noise.normal(128), noise.normal(128)]
        label_noise = noise.uniform(1, copies=2)
        dropout = [noise.uniform(8 * 8 * 128, copies=2), noise.uniform(8 * 8 * 128)]
        return tf.add_n([tf.reduce_sum(numbers) for numbers in (*latents, label_noise, *dropout)])

    times = []
    for step in tf.range(20, dtype=tf.int64):
        started = time.perf_counter()
        draw(step).numpy()
        times.append(time.perf_counter() - started)
    return min(times)


def recovery_seconds(dataset: Path) -> float:
    """Seconds from the SIGKILL of one of two workers to the next step of both."""
    with tempfile.TemporaryDirectory() as output:
        options = ["--workers=2", "--steps=100000", "--checkpoint-steps=20"]
        run = subprocess.Popen(
            train_command("vae", dataset, Path(output), *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

        def newest() -> int:
            return max((int(path.name) for path in Path(output).glob("checkpoints/0*")), default=0)

        try:
            while newest() < 100:
                time.sleep(0.01)
            processes = subprocess.check_output(["ps", "-wweo", "pid,ppid,args"], text=True).splitlines()[1:]
            table = [line.split(None, 2) for line in processes]
            agent = next(pid for pid, ppid, args in table if int(ppid) == run.pid and "agent 1 " in args)
            os.kill(int(next(pid for pid, ppid, _ in table if ppid == agent)), signal.SIGKILL)
            killed, step = time.perf_counter(), newest() + 20  # one may just be written
            while newest() <= step:
                time.sleep(0.01)
            return time.perf_counter() - killed
        finally:
            run.kill()
            run.wait()


def main() -> None:
    """Measures in turns and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--call", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        print(globals()[options.call[0]](*options.call[1:]))
        return
    best: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        datasets = {
            name: make_dataset(root / name, case["shape"], case["examples"]) for name, case in CASES.items()
        }
        for _ in range(options.passes):
            for name, measure in {
                "vae": lambda: ours("vae", datasets["vae"]),
                "vae fit": lambda: fresh("keras_fit", "vae"),
                "vae eager": lambda: fresh("keras_fit", "vae", "eagerly"),
                "gan": lambda: ours("gan", datasets["gan"]),
                "gan fit": lambda: fresh("keras_fit", "gan"),
                "gan bfloat16": lambda: ours("gan", datasets["gan"], "--precision=mixed_bfloat16"),
                "vae workers": lambda: ours("vae", datasets["vae"], "--workers=2"),
                "gan workers": lambda: ours("gan", datasets["gan"], "--workers=2"),
                "peak": lambda: fresh("matmul_peak"),
                "input 1": lambda: fresh("input_alone", datasets["gan"], 1),
                "input 4": lambda: fresh("input_alone", datasets["gan"], 4),
            }.items():
                best[name] = max(best[name], measure())
        saving, recovery = fresh("checkpoint_seconds"), recovery_seconds(datasets["vae"])
        drawing = fresh("random_seconds")
    share = best["gan"] * fresh("gan_step_operations") / best["peak"]
    print(f"{os.cpu_count()} cores, the book's models: VAE 28×28×1, batch 128; GAN 64×64×3, batch 32")
    for model in CASES:
        for name, key in (
            ("latentfaces train, one worker", model),
            ("the listing under Keras' fit", f"{model} fit"),
            ("the listing with run_eagerly", f"{model} eager"),
            ("two workers, one thread each", f"{model} workers"),
            ("mixed_bfloat16", f"{model} bfloat16"),
        ):
            if key in best:
                print(f"{model.upper()}  {name:32} {best[key]:8.2f} steps/s")
    for name, key, reference in (
        ("VAE  latentfaces ÷ fit", "vae", "vae fit"),
        ("VAE  latentfaces ÷ run_eagerly", "vae", "vae eager"),
        ("VAE  two workers ÷ one", "vae workers", "vae"),
        ("GAN  latentfaces ÷ fit", "gan", "gan fit"),
        ("GAN  two workers ÷ one", "gan workers", "gan"),
        ("GAN  mixed_bfloat16 ÷ float32", "gan bfloat16", "gan"),
    ):
        print(f"{name:37} {best[key] / best[reference]:8.2f}")
    print(f"GAN  share of the matmul peak         {share:8.2f}   of {best['peak'] / 1e9:.0f} GFLOP/s")
    for workers in (1, 4):
        rate = best[f"input {workers}"]
        print(f"input alone, worker 0 of {workers}            {rate:8,.0f} images/s of 64×64×3, shuffled")
    print(f"a checkpoint of the GAN               {saving:8.2f} s, {saving * best['gan']:.1f} steps")
    print(
        f"reproducible random numbers           {drawing:8.4f} s, {drawing * best['gan']:.2%} of a GAN step"
    )
    print(f"from a killed worker to the next step {recovery:8.1f} s")


if __name__ == "__main__":
    main()
