"""What a data set is made from, in one number: the same source and options have the same fingerprint.

It is taken from a listing, and no image is read: from the images' names below the source, their sizes and,
in a bucket, their CRC-32C, on a file system the nanosecond in which each was written; likewise of an
archive, and of the files with labels and partition. Where the source lies, the order of its files and the
time of their last `chmod` or `mv` (ctime) don't count, so that a copy that keeps the times (`cp -a`,
`rsync -a`) is the same. Once HEIC can be read, a folder with such files is another. What is not noticed is a
file that is written anew with the same size and is given its old time back, and that HEIC in an archive can
now be read.
"""

import dataclasses
import hashlib
import json
from typing import Any

from latentfaces.common import dataset
from latentfaces.preprocessing import sources
from latentfaces.preprocessing.options import PreprocessConfig

_VERSION = 1  # to be raised when the same files become other bytes
_PLACES = {"attributes", "partition", "beam_options"}  # options that don't change what the data set holds
# Options that came later: at their defaults, what earlier versions made is what they make
_NEWER = {"crop", "min_size", "flip", "drop_duplicates"}


def fingerprint(source: str, config: PreprocessConfig) -> str:
    """Returns the fingerprint of the data set that a source and options make, 32 hexadecimal digits.

    To be taken before the images are read: then what changes meanwhile makes the next fingerprint another.

    Args:
        source: as `latentfaces.preprocessing.job.run` takes it.
        config: the options.

    Raises:
        UserError: if the source is missing or can't be read.
    """
    options = {name: value for name, value in dataclasses.asdict(config).items() if name not in _PLACES}
    for name in _NEWER:
        if options[name] == getattr(PreprocessConfig, name):
            del options[name]
    made_from: list[Any] = [_VERSION, dataset.VERSION, options]
    made_from += sources.stamps(source, config.attributes, config.partition)
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]
