"""The judgement on top of the report: what is good, what is not, and whether it was better before."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from latentfaces.common import storage
from latentfaces.common.model_folder import DIVERSE
from latentfaces.components.evaluate.folder import MARK
from latentfaces.components.evaluate.registry import number, percent

ENOUGH = 250  # images of each kind; fewer are far from any others, with some hundred features
NEAR = 3.0  # times as far from held-out images as other real ones are: samples that count as near
MEMORISED = 0.03  # share of samples, where 1 % is nothing remembered
NOTICEABLE = 0.1  # decibels
ERRORS = 2.0  # standard errors of a difference that counts

_LONGEST = 16 << 20  # bytes of a metrics.json


def read_earlier(folder: str) -> dict[str, Any]:
    """Reads what an earlier evaluation found; its file may be anyone's, so nothing is believed of it.

    Args:
        folder: local or `gs://`.

    Returns:
        What its `metrics.json` holds; nothing where there is none, or another file.
    """
    try:
        text = storage.read(storage.resolve(folder) / MARK, 0, _LONGEST + 1)
        found = json.loads(text) if len(text) <= _LONGEST else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def judge(
    metrics: Mapping[str, Any], titles: Mapping[str, str], earlier: Mapping[str, Mapping[str, Any]], than: str
) -> str:
    """Says in one sentence what the numbers say.

    Good are: reconstructions with a smaller error than those of principal components, and samples at most
    `NEAR` times as far from held-out images as other real images are, where there are `ENOUGH`. Not good: the
    opposite of both, samples that are alike or remembered, and concepts that don't work.

    Earlier numbers are compared only where they are of the same images, and those of samples only where
    features and count are the same, too. Reconstructions differ if the errors do by `NOTICEABLE` decibels,
    samples if the kernel distances do by `ERRORS` standard errors.

    Args:
        metrics: what `metrics.json` will hold.
        titles: the models', by name.
        earlier: by the models' names, the `metrics.json` of what each is compared with.
        than: what that is, such as "the promoted model".

    Returns:
        "" where there is nothing to judge by.
    """
    good: list[str] = []
    bad: list[str] = []
    compared: list[str] = []
    for name, title in titles.items():
        _judge_model(metrics, name, title, good, bad)
        compared += _compare(metrics, earlier.get(name, {}), name, title)
    text = "; but ".join(filter(None, map(_listed, (good, bad))))
    if compared:
        differs = _listed(list(filter(None, compared))) or "nothing differs by more than chance"
        text += f"{'; c' if text else 'c'}ompared with {than}, {differs}"
    elif text and any(earlier.values()):
        text += f"; {than} was measured otherwise, and can't be compared"
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _listed(parts: Sequence[str]) -> str:
    return ", and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _number(found: Any, *keys: str) -> float | None:
    """Returns the number under some keys, or None where there is none."""
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return float(found) if type(found) in (int, float) and abs(found) <= sys.float_info.max else None


def _judge_model(metrics: Mapping[str, Any], name: str, title: str, good: list[str], bad: list[str]) -> None:
    own, line = (
        _number(metrics, name, f"{key}_psnr_db") for key in ("reconstruction", "principal_components")
    )
    if own is not None and line is not None:
        better = own > line
        (good if better else bad).append(
            f"the {title} reconstructs {'better' if better else 'worse'} than principal components "
            f"({own:.1f} dB against {line:.1f} dB)"
        )
    distance, floor = (
        _number(metrics, "distances", kind, "frechet_distance") for kind in (f"{name}_samples", "train")
    )
    if distance is not None and floor and (_number(metrics, "distances", "count") or 0) >= ENOUGH:
        near = distance <= NEAR * floor
        (good if near else bad).append(
            f"the {title}'s samples are {'near to' if near else 'far from'} real images "
            f"(Fréchet distance {number(distance)}, other real images {number(floor)})"
        )
    ratio = _number(metrics, name, "diversity_ratio")
    if ratio is not None and ratio < DIVERSE:
        bad.append(f"the {title}'s samples are alike ({percent(ratio)} of real images' diversity)")
    memorised = _number(metrics, name, "memorised_share")
    if memorised is not None and memorised > MEMORISED:
        bad.append(f"{percent(memorised)} of the {title}'s samples are as near to train images as copies")
    for key in ("concepts", f"{name}_concepts"):
        found = metrics.get(key) if key in metrics and _is_of(key, name, metrics) else None
        works = [each["works"] for each in found.values() if "works" in each] if found else []
        if works:
            part = f"{sum(works)} of {len(works)} concepts of the {title} work"
            (good if 2 * sum(works) > len(works) else bad).append(part)


def _is_of(key: str, name: str, metrics: Mapping[str, Any]) -> bool:
    """Whether concepts are a model's: those of the first autoencoder have no name in front."""
    if key != "concepts":
        return True
    autoencoders = (each for each in metrics if _number(metrics, each, "reconstruction_psnr_db") is not None)
    return next(autoencoders, "") == name


def _compare(metrics: Mapping[str, Any], earlier: Mapping[str, Any], name: str, title: str) -> Sequence[str]:
    """What differs of a model, and "" for each thing that was compared and does not."""
    if any(metrics.get(key) != earlier.get(key) for key in ("dataset", "held_out")):
        return []
    parts = []
    now, then = (_number(found, name, "reconstruction_psnr_db") for found in (metrics, earlier))
    if now is not None and then is not None:
        differs = abs(now - then) >= NOTICEABLE
        how = f"{'better' if now > then else 'worse'} ({now:.1f} dB, then {then:.1f} dB)"
        parts.append(f"the {title}'s reconstructions are {how}" if differs else "")
    samples = "distances", f"{name}_samples"
    now, then, error, other = (
        _number(found, *samples, key)
        for key in ("kernel_distance", "kernel_distance_error")
        for found in (metrics, earlier)
    )
    if now is not None and then is not None and _same_features(metrics, earlier):
        differs = abs(now - then) > ERRORS * math.hypot(error or 0.0, other or 0.0)
        how = f"{'nearer to' if now < then else 'farther from'} real images"
        numbers = f"(kernel distance {number(now)}, then {number(then)})"
        parts.append(f"the {title}'s samples are {how} {numbers}" if differs else "")
    return parts


def _same_features(metrics: Mapping[str, Any], earlier: Mapping[str, Any]) -> bool:
    """Whether distances are by the same features, which those of a classifier are by its seed only."""
    own, others = metrics.get("distances"), earlier.get("distances")
    if not isinstance(own, Mapping) or not isinstance(others, Mapping):
        return False
    same = all(own.get(key) == others.get(key) for key in ("features", "count"))
    return same and (
        own.get("features") not in ("attributes", "components") or metrics.get("seed") == earlier.get("seed")
    )
