"""How fast the Beam job is, beside a bare loop and beside Keras' own reader, and whether its memory is flat.

Every measurement runs in a fresh process, in turns, and the best of several passes counts. A rate is that of
the steady state: the time that 18,000 more images take; the rest of the shorter run is start-up, printed too.
Run it on an otherwise idle machine.

    python benchmarks/preprocess.py [--folder DIR] [--passes 3]
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from latentfaces.preprocessing.drawn_faces import synthesize

IMAGES, FEW, SIZE = 20_000, 2_000, 64
MEMORY_IMAGES = (5_000, 50_000)


def fresh(function: Callable, *arguments: object) -> object:
    """Calls a function in a new process."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments).result()


def decode_only(folder: Path) -> float:
    """Images/s of libjpeg-turbo alone, one thread, from memory: the floor."""
    import simplejpeg

    contents = [path.read_bytes() for path in sorted(folder.iterdir())]
    started = time.perf_counter()
    for content in contents:
        simplejpeg.decode_jpeg(content)
    return len(contents) / (time.perf_counter() - started)


def bare_loop(folder: Path) -> float:
    """Images/s of reading, decoding and resizing, one thread, no Beam, nothing written."""
    import cv2

    from latentfaces.preprocessing.resize import decode, smart_resize

    cv2.setNumThreads(1)
    paths = [str(path) for path in sorted(folder.iterdir())]
    started = time.perf_counter()
    for path in paths:
        with open(path, "rb") as file:
            smart_resize(decode(file.read(), 3), SIZE)
    return len(paths) / (time.perf_counter() - started)


def beam_job(few: Path, many: Path, workers: int) -> tuple[float, float]:
    """Images/s in steady state, and seconds of start-up, of the whole job, from listing to `dataset.json`."""
    seconds = [_beam_seconds(folder, workers) for folder in (few, many)]
    rate = (IMAGES - FEW) / (seconds[1] - seconds[0])
    return rate, seconds[0] - FEW / rate


def _beam_seconds(folder: Path, workers: int) -> float:
    from rich.console import Console

    from latentfaces.preprocessing.job import run

    with tempfile.TemporaryDirectory() as output, open(os.devnull, "w") as nowhere:
        started = time.perf_counter()
        run(
            str(folder),
            output,
            image_size=SIZE,
            beam_options=[f"--direct_num_workers={workers}"],
            console=Console(file=nowhere),
        )
        return time.perf_counter() - started


def keras_reader(folder: Path) -> float:
    """Images/s of `image_dataset_from_directory`, warm: its second pass over the files, on all cores."""
    import keras

    dataset = keras.utils.image_dataset_from_directory(
        folder, labels=None, image_size=(SIZE, SIZE), crop_to_aspect_ratio=True, batch_size=128, shuffle=False
    )
    for _ in range(2):
        started = time.perf_counter()
        count = sum(len(batch) for batch in dataset)
    return count / (time.perf_counter() - started)


def peak_memory(folder: Path) -> int:
    """Bytes of peak resident memory of a process that runs the job over a folder, with two workers."""
    _beam_seconds(folder, 2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def linked(images: list[Path], count: int, folder: Path) -> Path:
    """A folder of `count` images, links to the given ones over and over."""
    folder.mkdir()
    for number in range(count):
        os.link(images[number % len(images)], folder / f"{number:06d}.jpg")
    return folder


def main() -> None:
    """Draws the images, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "latentfaces-benchmark")
    parser.add_argument("--passes", type=int, default=3)
    options = parser.parse_args()
    many = options.folder / "faces" / "img_align_celeba"
    if not many.is_dir():
        print(f"drawing {IMAGES:,} faces of 178×218 into {options.folder}")
        synthesize(options.folder / "faces", IMAGES, seed=0)
    images = sorted(many.iterdir())
    shutil.rmtree(options.folder / "links", ignore_errors=True)
    (options.folder / "links").mkdir()
    few = linked(images, FEW, options.folder / "links" / "few")
    flat = linked(images, IMAGES, options.folder / "links" / "many")  # without labels, as `few`

    floor, bare, one, two, keras = 0.0, 0.0, (0.0, 0.0), (0.0, 0.0), 0.0
    for _ in range(options.passes):
        floor = max(floor, fresh(decode_only, flat))
        bare = max(bare, fresh(bare_loop, flat))
        one = max(one, fresh(beam_job, few, flat, 1))
        two = max(two, fresh(beam_job, few, flat, 2))
        keras = max(keras, fresh(keras_reader, flat))
    print(
        f"{os.cpu_count()} cores, {SIZE}×{SIZE}×3, best of {options.passes} passes, images/s in steady state"
    )
    print(f"decoding alone, one thread            {floor:8,.0f}")
    print(
        f"bare loop, one thread                 {bare:8,.0f}   resizing and reading: "
        f"{floor / bare - 1:.2f} of the time that decoding takes"
    )
    print(
        f"Beam, one worker                      {one[0]:8,.0f}   {one[0] / bare:.2f} of the bare loop; "
        f"start-up {one[1]:.1f} s"
    )
    print(
        f"Beam, two workers                     {two[0]:8,.0f}   {two[0] / keras:.2f} of Keras; "
        f"start-up {two[1]:.1f} s"
    )
    print(f"Keras image_dataset_from_directory    {keras:8,.0f}")

    memory = []
    for count in MEMORY_IMAGES:
        memory.append(fresh(peak_memory, linked(images, count, options.folder / "links" / str(count))))
        print(f"peak resident memory, {count:6,} images   {memory[-1] / (1 << 20):8,.0f} MiB")
    print(f"ratio                                 {memory[1] / memory[0]:8.2f}")


if __name__ == "__main__":
    main()
