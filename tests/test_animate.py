import io

import numpy as np
from conftest import invoke
from PIL import Image, ImageSequence

import latentfaces
from latentfaces.common import storage
from latentfaces.common.pictures import grid


def frames(file):
    with Image.open(file) as image:
        assert image.info["loop"] == 0
        return [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(image)]


def test_the_animation_shows_the_images_of_the_walk(trained_root, run_folder, tmp_path):
    arguments = ["--root", trained_root, "--model", "gan", "--frames", 12, "--seed", 3]
    for name in ("a.webp", "b.webp", "a.gif"):
        done = invoke("animate", *arguments, "--output", tmp_path / name)
        assert done.exit_code == 0, done.output
    assert (tmp_path / "a.webp").read_bytes() == (tmp_path / "b.webp").read_bytes()
    model = latentfaces.load(str(run_folder / "gan"))
    stations = np.asarray([grid(image[None, None]).convert("RGB") for image in model.sample(6, seed=3)])
    for name in ("a.webp", "a.gif"):
        shown = np.stack(frames(tmp_path / name))
        assert shown.shape == (12, 96, 96, 3)
        # Each station is shown as itself, but for the format's losses, and more so than any other is
        apart = np.abs(shown[::2, None] - stations[None]).mean(axis=(2, 3, 4))
        assert (apart.argmin(axis=1) == np.arange(6)).all()


def test_a_vae_goes_from_photograph_to_photograph_in_a_bucket_too(run_folder, photographs, bucket):
    places = ["--from", photographs[0], "--to", photographs[1], "--output", "gs://bucket/walk.gif"]
    done = invoke("animate", "--model", run_folder / "vae", "--frames", 8, *places)
    assert done.exit_code == 0, done.output
    shown = frames(io.BytesIO(storage.read(bucket / "walk.gif")))
    model = latentfaces.load(str(run_folder / "vae"))
    faces = model.decode(model.encode(np.stack([model.read(str(path)) for path in photographs])))
    for frame, face in zip((shown[0], shown[4]), faces, strict=True):
        expected = np.asarray(grid(face[None, None]).convert("RGB"))
        assert np.abs(frame - expected).mean() < 12  # of 256 colours


def test_mistakes_are_told_in_a_sentence_and_nothing_is_made(run_folder, photographs, tmp_path):
    ann, bob = photographs
    output = tmp_path / "walk.webp"
    both = ["--from", ann, "--to", bob]
    (tmp_path / "text.jpg").write_text("no picture")
    for arguments, says in (
        (["--model", run_folder / "gan", "--output", tmp_path / "walk.mp4"], "end it in .webp or .gif"),
        (["--model", run_folder / "vae", "--from", ann], "give --from and --to"),
        (["--model", run_folder / "gan", *both], "is a GAN, which has no encoder"),
        (["--model", run_folder / "vae", "--from", ann, "--to", tmp_path / "text.jpg"], "not an image"),
        (["--model", run_folder / "vae", "--frames", 1], "--frames"),
        (["--model", run_folder / "vae", "--output", ann / "walk.gif"], "can't be made in"),
    ):
        done = invoke("animate", "--output", output, *arguments)
        assert done.exit_code == 2 and says in " ".join(done.output.split()), done.output
        assert not list(tmp_path.glob("walk.*"))
