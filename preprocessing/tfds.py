"""What TensorFlow Datasets has to know to open a data set: `tfds.builder_from_directory(folder)`.

Two files beside `dataset.json`, as its `DatasetInfo` and `FeaturesDict` write them; nothing of ours reads
them.
"""

import json
from typing import Any

from latentfaces.common.dataset import Dataset, name_by_content

FEATURES, INFO = "features.json", "dataset_info.json"
FILES = (FEATURES, INFO)

_CLASS = "tensorflow_datasets.core.features"


def describe(dataset: Dataset) -> dict[str, bytes]:
    """Returns the content of each of `FILES`; of none where shards are not named by their split's content."""
    if any(name_by_content(name, split) != split for name, split in dataset.splits.items()):
        return {}
    features = {
        "filename": {"pythonClassName": f"{_CLASS}.text_feature.Text", "text": {}},
        "image": _tensor("uint8", "bytes", dataset.image_shape),
    }
    if dataset.attribute_names:
        features["attributes"] = _tensor("int64", "none", (len(dataset.attribute_names),))
    features_dict = {
        "pythonClassName": f"{_CLASS}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
    splits = [
        {
            "name": name,
            "filepathTemplate": f"{name}-{split.digest[:16]}-{{SHARD_X_OF_Y}}.tfrecord",
            "numBytes": str(sum(shard.bytes for shard in split.shards)),
            "shardLengths": [str(shard.examples) for shard in split.shards],
        }
        for name, split in dataset.splits.items()
        if split.examples
    ]
    info = {
        "name": "latentfaces",
        "version": "1.0.0",
        "description": f"Attributes: {', '.join(dataset.attribute_names) or 'none'}",
        "fileFormat": "tfrecord",
        "splits": splits,
    }
    return {name: json.dumps(content).encode() for name, content in ((FEATURES, features_dict), (INFO, info))}


def _tensor(dtype: str, encoding: str, shape: tuple[int, ...]) -> dict[str, Any]:
    dimensions = {"dimensions": [str(side) for side in shape]}
    return {
        "pythonClassName": f"{_CLASS}.tensor_feature.Tensor",
        "tensor": {"dtype": dtype, "encoding": encoding, "shape": dimensions},
    }
