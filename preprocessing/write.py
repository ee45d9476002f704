"""The work: one shard is read, decoded, resized and written by one worker, whatever engine has it done."""

import warnings

import apache_beam as beam
import cv2
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PBegin, PCollection

from latentfaces.common import storage
from latentfaces.common.dataset import ShardWriter, encode_example
from latentfaces.preprocessing.commit import drafted
from latentfaces.preprocessing.plan import PLAN, Unit, read_shard
from latentfaces.preprocessing.progress import write_summary
from latentfaces.preprocessing.resize import RefusedImage, decode, smart_resize
from latentfaces.preprocessing.sources import Image, Images


class WriteShard(beam.DoFn):
    """Writes the shard that a line of the plan describes, and then its summary; puts nothing out.

    Args:
        images: Reads the inputs.
        job_folder: The job's folder in the output, as text: the worker may be another machine.
        attributes: How many attributes an example has, if it has any.
        image_size: Height and width of the results in pixels.
        channels: 1 or 3.
    """

    def __init__(
        self, images: Images, job_folder: str, attributes: int, image_size: int, channels: int
    ) -> None:
        self._images = images
        self._job_folder = job_folder
        self._attributes = attributes
        self._image_size = image_size
        self._channels = channels
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
        job_folder = storage.resolve(self._job_folder)
        planned = read_shard(job_folder, unit)
        refused = []
        with drafted(job_folder.parent / planned.name, job_folder) as draft:
            with ShardWriter(draft.open("wb", buffering=1 << 20)) as writer:
                contents = self._images.read(image.place for image in planned.images)
                for image, content in zip(planned.images, contents, strict=True):
                    try:
                        writer.write(self._example(image, content))
                    except RefusedImage as refusal:
                        refused.append((image.name, str(refusal)))
            if not storage.is_file(job_folder / PLAN):
                raise RuntimeError(f"the job that {planned.name} belongs to is over")
        written = writer.shard(planned.name)
        write_summary(job_folder, planned.split, written, refused)
        self._written.inc(written.examples)
        self._refused.inc(len(refused))

    def _example(self, image: Image, content: bytes | RefusedImage) -> bytes:
        if isinstance(content, RefusedImage):
            raise content
        pixels = smart_resize(decode(content, self._channels), self._image_size)
        return encode_example(pixels.tobytes(), image.name, image.attributes(self._attributes))


class WriteShards(beam.PTransform[PBegin, PCollection[None]]):
    """The whole pipeline: all shards of a plan, each written by `write_shard`."""

    def __init__(self, units: list[Unit], write_shard: WriteShard) -> None:
        super().__init__()
        self.units = units
        self._write_shard = write_shard

    def expand(self, begin: PBegin) -> PCollection[None]:
        """Creates one element a shard; Beam ends this in a reshuffle, so that it can hand them out singly."""
        return begin | "Shards" >> beam.Create(self.units) | "WriteShard" >> beam.ParDo(self._write_shard)
