"""Are the places there that a run reads from and writes to?"""

from __future__ import annotations

import os
from pathlib import Path

from preprocessing import storage
from preprocessing.errors import UserError


def check_locations(source: str, *outputs: str) -> None:
    """Checks that the source exists and that outputs can be made.

    Args:
        source: a folder, a zip file or an image, local or `gs://`.
        *outputs: folders, local or `gs://`; empty strings are passed over.

    Raises:
        UserError: if the source is missing, a bucket does not exist or a local folder can't be written.
    """
    path = storage.resolve(source)
    if not path.exists():
        raise UserError(f"the source {source} does not exist: give a folder or a zip file of images")
    for output in filter(None, outputs):
        check_output(output)


def check_output(output: str) -> None:
    """Checks that a folder is there or can be made.

    Args:
        output: local or `gs://`.

    Raises:
        UserError: if its bucket does not exist, or the local folder can't be written.
    """
    folder = storage.resolve(output)
    if isinstance(folder, Path):
        parent = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UserError(
                f"the output {output} can't be made in {parent}: choose a folder that you may write to"
            )
