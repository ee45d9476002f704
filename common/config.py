"""What is trained, how it is run, how it is judged: objects that go from the command line to every worker."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass

from latentfaces.common.errors import UserError
from latentfaces.common.options import check, option
from latentfaces.common.program import in_a_pod

PRECISIONS = ("float32", "float64", "mixed_bfloat16", "mixed_float16")
LAUNCHERS = {
    "local": "latentfaces.components.train.launch.local",
    "kubernetes": "latentfaces.components.train.launch.kubernetes",
}
_LONG = 1e9  # seconds, some thirty years


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What is trained; written to `config.json` in the model folder.

    A model family adds fields of its own in a subclass. The options, those fields that are declared with
    `option`, are the user's to set; the others follow from the preset and the data set.

    Attributes:
        model: name of the family, such as "vae".
        preset: name of the preset, which also names the networks.
        epochs: passes over the train split.
        steps: training steps; follows from `epochs` unless the user counts in steps.
        batch_size: global batch size, the images of one step over all replicas.
        seed: of all random numbers.
        precision: one of `PRECISIONS`, Keras' names of dtype policies.
        xla: whether gradients are computed by code that XLA compiled.
        latent_dim: dimensions of the latent space.
        learning_rate: Adam's, at the start.
        beta_1: Adam's first momentum.
        learning_rate_decay: whether the learning rate falls to 0 along half a cosine.
        warmup_steps: steps in which it rises from 0, if it falls later; less in a short run.
        image_shape: (height, width, channels) of the data set.
        warm_start: whether training begins from the promoted model's weights.
        initial_run: the run whose weights those were when this run began, or the model folder of `--init`; ""
            where there were none.
        initial_digest: sha256 over the files of its networks.
        dataset: location of the data set folder.
        dataset_digest: sha256 over the data set's shards, so that other data at that location is noticed.
        examples: images in its train split.
    """

    model: str
    preset: str = option(help="Networks and settings.")
    epochs: int = option(0, help="Passes over the train split; 0 for the preset's.", minimum=0)
    steps: int = option(0, help="Training steps, instead of epochs.", minimum=0)
    batch_size: int = option(0, help="Images a step over all workers; 0 for the preset's.", minimum=0)
    seed: int = option(
        0,
        help="Of all random numbers: the same seed gives the same result.",
        minimum=0,
        maximum=math.inf,
        shared=True,
    )
    precision: str = option(
        "float32", help=f"One of {', '.join(PRECISIONS)}.", choices=PRECISIONS, shared=True
    )
    xla: bool = option(False, help="Compile the computation of gradients.", shared=True)
    warm_start: bool = option(False, help="Begin from the weights of the root's promoted model.", shared=True)
    latent_dim: int
    learning_rate: float
    beta_1: float = 0.9
    learning_rate_decay: bool = False
    warmup_steps: int = 0
    image_shape: tuple[int, int, int] = (0, 0, 0)
    initial_run: str = ""
    initial_digest: str = ""
    dataset: str = ""
    dataset_digest: str = ""
    examples: int = 0

    def __post_init__(self) -> None:
        """Checks the options; raises `UserError`."""
        check(self)

    @property
    def short_seed(self) -> int:
        """The seed as Keras takes it, below 2**32; a larger one, such as a time stamp, is hashed to one."""
        if self.seed < 2**32:
            return self.seed
        return int.from_bytes(hashlib.sha256(str(self.seed).encode()).digest()[:4])

    def to_json(self) -> str:
        """Returns the configuration as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a model is trained; nothing here changes what comes out, up to rounding.

    But for a GAN's `rebalance`, which looks at the losses with every row of the history.
    """

    workers: int = option(
        1,
        help="Workers: processes on one machine, nodes on a cluster. With TF_CONFIG, this is one of them.",
        minimum=1,
    )
    gpus_per_worker: int = option(0, help="GPUs of each worker; 0 shares what is there.", minimum=0)
    launcher: str = option(
        "",
        help=f"Who starts the workers, {' or '.join(LAUNCHERS)}; by default kubernetes for several in a pod.",
        choices=("", *LAUNCHERS),
    )
    rendezvous: str = option(
        "", help="HOST:PORT of worker 0, where a Job or JobSet starts the workers and numbers them."
    )
    log_steps: int = option(50, help="Steps between two rows of history.csv.", minimum=1)
    checkpoint_steps: int = option(1000, help="Steps between two checkpoints.", minimum=1)
    checkpoint_minutes: float = option(
        2.0, help="Minutes after which a checkpoint is written in between; 0 for never.", minimum=0
    )
    max_restarts: int = option(
        3, help="How often to go on from the last checkpoint after a failure.", minimum=0
    )
    rendezvous_seconds: float = option(
        1800.0, help="How long the workers wait for each other.", minimum=0.1, maximum=_LONG
    )
    stuck_seconds: float = option(
        300.0, help="Time without a step after which a worker counts as lost.", minimum=0.1, maximum=_LONG
    )

    def __post_init__(self) -> None:
        """Checks the options; raises `UserError`."""
        check(self)
        port = re.fullmatch(r"[^\s/]+:([0-9]{1,5})", self.rendezvous)
        if self.rendezvous and (port is None or not 0 < int(port[1]) < 65536):
            raise UserError(f"--rendezvous {self.rendezvous[:80]!r} can't be read: write HOST:PORT")

    @property
    def started_by(self) -> str:
        """The launcher. Several workers in a pod are pods of their own."""
        return self.launcher or ("kubernetes" if self.workers > 1 and in_a_pod() else "local")

    def check_batch(self, title: str, batch_size: int) -> None:
        """Checks that the replicas can share a global batch evenly.

        Args:
            title: the model's, for the message.
            batch_size: global batch size.

        Raises:
            UserError: if they can't.
        """
        replicas = self.workers * max(1, self.gpus_per_worker)
        if batch_size % replicas:
            raise UserError(
                f"batch size {batch_size} of the {title} can't be divided among {replicas} replicas: "
                f"choose a multiple of {replicas}"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How what was trained is evaluated."""

    seed: int = option(
        0,
        help="Of all random numbers: the same seed gives the same result.",
        minimum=0,
        maximum=math.inf,
    )
    features: str = option(
        "attributes",
        help="Whose features images are compared by: attributes, those of a classifier of them; components, "
        "of a network trained on principal components, which is taken where there are no labels; random, of "
        "one with random weights; inception, the FID's.",
        choices=("attributes", "components", "random", "inception"),
    )
    inception: str = option(
        "", help="The FID's network, for --features inception: inception-2015-12-05.tgz or .pt, or gs://."
    )
    samples: int = option(
        1000,
        help="Samples of each model, and as many real images, that distances are measured with.",
        minimum=20,
    )
    concepts: str = option(
        "least_squares",
        help="How concept vectors are found: least_squares, logistic (regression) or (differences of) means.",
        choices=("least_squares", "logistic", "means"),
    )

    def __post_init__(self) -> None:
        """Checks the options; raises `UserError`."""
        check(self)
        if (self.features == "inception") != bool(self.inception):
            raise UserError(
                "--features inception and --inception go together: give both, the latter with "
                "inception-2015-12-05.tgz of download.tensorflow.org/models/image/imagenet"
            )
