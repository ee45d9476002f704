"""The options of the job; no Beam here, so that a command line can be made from them in no time."""

from dataclasses import dataclass

from latentfaces.common.errors import UserError
from latentfaces.common.options import Option, check, option

SOURCES = (
    "CelebA as distributed, images in a folder, a zip, a tar or a Parquet file, MNIST's folder of IDX files, "
    "or Keras' mnist.npz"
)
"""What can be a source, for messages and help texts."""


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """How images become a data set.

    `examples_per_shard`, which is no option of the command line, is the most that a shard holds; 0 for
    2,500, fewer for large images.
    """

    image_size: int = option(
        64, help="Height and width of the resized images in pixels.", minimum=1, maximum=4096
    )
    channels: int = option(3, help="1 for grey, 3 for RGB.", choices=(1, 3))
    crop: str = option(
        "center",
        help="What is cut out: the middle; or the largest face, upright and aligned as CelebA's are.",
        choices=("center", "faces"),
    )
    min_size: int = option(
        0,
        help="The least that an image's shorter side, or its face's square, may have, in pixels.",
        minimum=0,
    )
    flip: bool = option(False, help="Write each image of the split train a second time, mirrored.")
    max_rejected: float = option(0.01, help="Share of the inputs that may be refused.", minimum=0, maximum=1)
    labels: str = option(
        "lists",
        help="Where labels are: in lists, CelebA's or --attributes; or in folders, one for each class.",
        choices=("lists", "folders"),
    )
    attributes: str = option(
        "", help="Label file, CelebA's or a .csv of one's own, instead of one that lies there."
    )
    partition: str = option("", help="Partition file, likewise.")
    drop_duplicates: bool = option(
        False, help="Leave out images that are copies, exactly or nearly, of others; held-out ones stay."
    )
    beam_options: list[str] = option(
        [], help="Beam's own options, after --, such as --runner=DataflowRunner.", rest=True
    )
    examples_per_shard: int = 0

    def __post_init__(self) -> None:
        """Checks the values; raises `UserError`."""
        check(self)
        Option(help="", minimum=0).check("examples_per_shard", self.examples_per_shard)
        if self.attributes and self.labels == "folders":
            raise UserError("--attributes and --labels folders both name labels: give one of them")
