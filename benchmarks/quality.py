"""What each preset reaches in a given CPU time on drawn faces: a table, and a picture each.

Whoever tries an idea sees here whether it helps. CPU time is that of one core, since several wait for one
another, and counts neither start nor tracing: other programs on the machine don't change how far a preset
comes. The numbers are the evaluation's own, of the split `test` (docs/evaluation.md).

    python benchmarks/quality.py [--seconds 240] [--image-size 32] [--output runs/quality] [vae:small ...]
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import latentfaces
from latentfaces.common.models import MODELS, presets
from latentfaces.common.program import start_logging

SHORT, LONG = 30, 230  # steps of the two runs whose difference tells what a step costs


def train(family: str, preset: str, dataset: Path, output: Path, seed: int, steps: int) -> float:
    """Trains for some steps and returns the CPU seconds that it took."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    shutil.rmtree(output, ignore_errors=True)
    before = used()
    latentfaces.train(family, str(dataset), str(output), preset=preset, steps=steps, seed=seed)
    return used() - before


def row(family: str, metrics: dict[str, Any]) -> dict[str, str]:
    """Returns what the table says of an evaluation."""
    distances = metrics["distances"]
    samples = distances[f"{family}_samples"]
    attributes = metrics["attributes"].values()
    gaps = {
        key: max(abs(each[f"{key}_share"] - each["train_share"]) for each in attributes)
        for key in (family, "held_out")
    }
    said = {
        "FD": f"{samples['frechet_distance']:.1f}",
        "FD floor": f"{distances['train']['frechet_distance']:.1f}",
        "precision": f"{samples['precision']:.2f}",
        "recall": f"{samples['recall']:.2f}",
        "worst share": f"{gaps[family]:.2f}",
        "share floor": f"{gaps['held_out']:.2f}",
    }
    if family == "vae":
        found = metrics["vae"]
        said["FD mixture"] = f"{distances['vae_mixture_samples']['frechet_distance']:.1f}"
        said["FD recon."] = f"{distances['vae_reconstructions']['frechet_distance']:.1f}"
        said["PSNR"] = f"{found['reconstruction_psnr_db']:.1f} dB"
        said["PCA"] = f"{found['principal_components_psnr_db']:.1f} dB"
        concepts = metrics["concepts"]
        said["concepts"] = f"{sum(each['works'] for each in concepts.values())} of {len(concepts)}"
        for name in ("Smiling", "Eyeglasses"):
            kept = 1 - concepts[name]["leakage"]
            said[name] = f"{concepts[name]['success']:.2f}, others kept {kept:.2f}"
    return said


def main() -> None:
    """Trains, evaluates and prints all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    everything = [f"{family}:{preset}" for family in MODELS for preset in presets(family)]
    parser.add_argument("presets", nargs="*", default=everything, help=f"of {', '.join(everything)}")
    parser.add_argument("--seconds", type=float, default=240, help="CPU seconds for each preset")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--faces", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/quality"))
    args = parser.parse_args()
    start_logging()
    cores = os.sched_getaffinity(0)

    output: Path = args.output
    source, dataset = output / f"faces-{args.faces}", output / f"dataset-{args.faces}-{args.image_size}"
    if not source.exists():
        latentfaces.synthesize(str(source), count=args.faces, seed=0)
    latentfaces.preprocess(str(source), str(dataset), image_size=args.image_size)

    rows = []
    for name in args.presets:
        family, _, preset = name.partition(":")
        known = presets(family)[preset]
        if args.image_size % known.side_multiple:
            print(f"{name} is left out: it needs sides that are multiples of {known.side_multiple}")
            continue
        folder = output / f"{family}-{preset}-{args.image_size}"
        os.sched_setaffinity(0, {min(cores)})
        short, long = (train(family, preset, dataset, folder, args.seed, steps) for steps in (SHORT, LONG))
        steps = max(1, round(args.seconds * (LONG - SHORT) / (long - short)))
        took = train(family, preset, dataset, folder, args.seed, steps) - short
        os.sched_setaffinity(0, cores)
        metrics = latentfaces.evaluate(str(dataset), str(folder / "evaluation"), {family: str(folder)})
        picture = output / f"{folder.name}.png"
        shutil.copy(folder / "evaluation" / "grids" / f"{family}_samples.png", picture)
        said = {"preset": name, "CPU s": f"{took:.0f}", "images": f"{steps * known.settings['batch_size']:,}"}
        rows.append(said | row(family, metrics))
        print(f"{rows[-1]}, picture {picture}", flush=True)
    for family in MODELS:
        of_family = [each for each in rows if each["preset"].startswith(f"{family}:")]
        if of_family:
            table = Table(*of_family[0])
            for each in of_family:
                table.add_row(*each.values())
            Console(width=200).print(table)


if __name__ == "__main__":
    main()
