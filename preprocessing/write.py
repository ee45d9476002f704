"""The work: one shard is read, decoded, resized and written by one worker, whatever engine has it done."""

import math
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed

import apache_beam as beam
import cv2
import numpy as np
import PIL.Image
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PBegin, PCollection

from latentfaces.common import storage
from latentfaces.common.dataset import ShardWriter, add_checksum, encode_example
from latentfaces.preprocessing import crops
from latentfaces.preprocessing.commit import draft
from latentfaces.preprocessing.duplicates import Hashes, write_hashes
from latentfaces.preprocessing.faces import crop_face
from latentfaces.preprocessing.options import PreprocessConfig
from latentfaces.preprocessing.plan import PLAN, Unit, read_shard
from latentfaces.preprocessing.progress import write_summary
from latentfaces.preprocessing.resize import RefusedImage, decode, smart_resize
from latentfaces.preprocessing.sources import Images


class WriteShard(beam.DoFn):
    """Writes the shard that a line of the plan describes, and then its summary; puts nothing out.

    Args:
        images: Reads the inputs.
        job_folder: The job's folder in the output, as text: the worker may be another machine.
        attributes: How many attributes an example has, if it has any.
        config: What images become.
        inputs: How many the whole job has; of some, what was cut out is shown.
    """

    def __init__(
        self, images: Images, job_folder: str, attributes: int, config: PreprocessConfig, inputs: int
    ) -> None:
        self._images = images
        self.job_folder = job_folder
        self._attributes = attributes
        self._config = config
        self._inputs = inputs
        self._written = Metrics.counter("latentfaces", "images_written")
        self._refused = Metrics.counter("latentfaces", "images_refused")

    def setup(self) -> None:
        """Prepares the process: Beam parallelizes over shards, OpenCV's threads would be in the way."""
        cv2.setNumThreads(1)
        warnings.filterwarnings("ignore", module=r"PIL\.")  # a damaged image is refused or good enough

    def process(self, unit: Unit) -> None:
        """Writes one shard.

        Args:
            unit: Where the shard stands in the plan.

        Raises:
            RuntimeError: The job is over.
            OSError: A storage failed, or the job's folder is gone.
        """
        self.count(*self.write(unit))

    def count(self, written: int, refused: int) -> None:
        """Tells the engine how many images were written and refused, for its own display."""
        self._written.inc(written)
        self._refused.inc(refused)

    def write(self, unit: Unit, stop: threading.Event | None = None) -> tuple[int, int]:
        """Writes one shard, as `process`, unless it is told to stop; returns how many images it counts."""
        job_folder = storage.resolve(self.job_folder)
        planned = read_shard(job_folder, unit)
        refused: list[tuple[str, str]] = []
        shown: list[PIL.Image.Image] = []
        most_shown = math.ceil(crops.MOST * len(planned.images) / self._inputs)
        hashes = Hashes()
        with draft(job_folder, planned.name) as path:
            with ShardWriter(path.open("wb", buffering=1 << 20)) as writer:
                contents = self._images.read(image.place for image in planned.images)
                for image, content in zip(planned.images, contents, strict=True):
                    if stop and stop.is_set():
                        raise RuntimeError(f"told to stop while writing {planned.name}")
                    try:
                        decoded, pixels = self._pixels(content)
                    except RefusedImage as refusal:
                        refused.append((image.name, str(refusal)))
                        continue
                    if len(shown) < most_shown:
                        shown.append(crops.pair(decoded, pixels))
                    hashes.add(pixels)
                    labels = image.attributes(self._attributes)
                    writer.write(encode_example(pixels.tobytes(), image.name, labels))
                    if self._config.flip and planned.split == "train":
                        mirrored = pixels[:, ::-1].tobytes()
                        writer.write(encode_example(mirrored, f"{image.name}#flipped", labels))
            if not storage.is_file(job_folder / PLAN):
                raise RuntimeError(f"the job that {planned.name} belongs to is over")
            shard = writer.shard(planned.name)
            storage.publish(path, job_folder / add_checksum(shard.name, shard.sha256), lasting=False)
        if shown:
            crops.leave_pairs(job_folder, planned.name, shown)
        write_hashes(job_folder, planned, hashes)
        write_summary(job_folder, planned, shard, refused)
        return shard.examples, len(refused)

    def _pixels(self, content: bytes | RefusedImage) -> tuple[np.ndarray, np.ndarray]:
        """The image that a file holds, and what is cut out of it."""
        if isinstance(content, RefusedImage):
            raise content
        config = self._config
        image = decode(content, config.channels)
        if config.crop == "faces":
            return image, crop_face(image, config.image_size, config.min_size)
        height, width, _ = image.shape
        if min(height, width) < config.min_size:
            raise RefusedImage(f"too small: {width}×{height} pixels")
        return image, smart_resize(image, config.image_size)


class WriteInThreads(beam.DoFn):
    """Writes all shards of a plan in threads of this process; puts nothing out.

    Beam's own threads are clients of a server in the same process, which listens on all interfaces.

    What goes wrong is left in `failures`, by the job's folder, as it is: Beam would log it, and change its
    type and its message.

    Args:
        write_shard: Writes one of them.
        threads: How many write at a time.
    """

    failures: dict[str, BaseException] = {}

    def __init__(self, write_shard: WriteShard, threads: int) -> None:
        self._write_shard = write_shard
        self._threads = threads

    def setup(self) -> None:
        """Prepares the process."""
        self._write_shard.setup()

    def process(self, units: list[Unit]) -> None:
        """Writes shards until all are written or one fails."""
        stop = threading.Event()
        with ThreadPoolExecutor(self._threads, "shard") as pool:
            try:
                for future in as_completed(
                    [pool.submit(self._write_shard.write, unit, stop) for unit in units]
                ):
                    self._write_shard.count(*future.result())
            except BaseException as error:  # Ctrl-C, too
                stop.set()
                pool.shutdown(cancel_futures=True)
                self.failures[self._write_shard.job_folder] = error


class WriteShards(beam.PTransform[PBegin, PCollection[None]]):
    """The whole pipeline: all shards of a plan, each written by `write_shard`.

    Args:
        units: The shards.
        write_shard: Writes one.
        threads: How many threads of one process write them; 0 to leave it to the engine.
    """

    def __init__(self, units: list[Unit], write_shard: WriteShard, threads: int = 0) -> None:
        super().__init__()
        self.units = units
        self.write_shard = write_shard
        self.threads = threads

    def expand(self, begin: PBegin) -> PCollection[None]:
        """Creates one element a shard; Beam ends this in a reshuffle, so that it can hand them out singly."""
        if self.threads:
            return (
                begin | beam.Create([self.units]) | beam.ParDo(WriteInThreads(self.write_shard, self.threads))
            )
        return begin | "Shards" >> beam.Create(self.units) | "WriteShard" >> beam.ParDo(self.write_shard)
