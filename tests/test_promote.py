"""Promotion, with generators that make what real images are like, more or less, without any training."""

import contextlib
import dataclasses
import json
import logging
import shutil

import keras
import numpy as np
import pytest
from conftest import make_dataset, photograph
from kfp import dsl

from latentfaces.common import root as root_module
from latentfaces.common import storage
from latentfaces.common.config import EvaluateOptions
from latentfaces.common.errors import RunError, UserError
from latentfaces.common.models import MODELS
from latentfaces.common.promoted import PROMOTED, REJECTED, ROLLED_BACK, Decision, Promoted, read, update
from latentfaces.common.root import nothing_removed
from latentfaces.components.evaluate import distances
from latentfaces.components.evaluate.component import evaluate as evaluation
from latentfaces.components.evaluate.evaluate import evaluate
from latentfaces.components.promote import promote as module
from latentfaces.components.promote import rollback as rollback_module
from latentfaces.components.promote.component import promote as component
from latentfaces.components.promote.judge import Judge
from latentfaces.components.promote.promote import promote
from latentfaces.components.promote.rollback import rollback

SHAPE = (16, 16, 3)
LATENTS = 8
PAGE = b"<p>before</p><!-- promotion --><!-- /promotion --><p>after</p>"


def pictures(count, seed):
    """Blends of the same eight photographs."""
    kinds = np.stack([photograph(kind, *SHAPE[:2]) for kind in range(LATENTS)]) / 255
    weights = np.random.default_rng(seed).dirichlet(np.ones(LATENTS), count)
    return np.rint(255 * np.tensordot(weights, kinds, 1)).astype(np.uint8)


def generator(images, seed=None, damage=0.0):
    """A network whose images have the mean and covariance of real ones; each seed mixes the latents anew."""
    rows = images.reshape(len(images), -1) / 255
    mean = rows.mean(axis=0)
    _, scales, directions = np.linalg.svd((rows - mean) / np.sqrt(len(rows)), full_matrices=False)
    weights = scales[:LATENTS, None] * directions[:LATENTS]
    if seed is not None:
        turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((LATENTS, LATENTS)))[0]
        weights = turn @ weights
    weights += damage * weights.std() * np.random.default_rng(0).standard_normal(weights.shape)
    latents = keras.Input((LATENTS,))
    pixels = keras.layers.Dense(len(mean))
    x = keras.layers.Reshape(SHAPE)(keras.layers.ReLU(max_value=1.0)(pixels(latents)))
    network = keras.Model(latents, x)
    pixels.set_weights([weights, mean])
    return network


def reader(outputs, count=1):
    images = keras.Input(SHAPE)
    flat = keras.layers.Flatten()(images)
    return keras.Model(images, [keras.layers.Dense(outputs)(flat) for _ in range(count)])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return make_dataset(folder, train=pictures(300, 0), test=pictures(250, 1))


def save_model(folder, family, network, ratio="0.9"):
    folder.mkdir(parents=True)
    others = {"vae": {"encoder": reader(LATENTS, 2)}, "gan": {"discriminator": reader(1)}}[family]
    for name, each in {**others, {"vae": "decoder", "gan": "generator"}[family]: network}.items():
        each.save(folder / f"{name}.keras")
    config = {"model": family, "preset": "small", "image_shape": SHAPE, "latent_dim": LATENTS}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "history.csv").write_text(f"step,diversity_ratio\n10,0.1\n20,{ratio}\n")


@pytest.fixture(scope="module")
def models(data, tmp_path_factory):
    """Folders of both models, each good, as good in another way, and spoiled."""
    folder = tmp_path_factory.mktemp("models")
    real = pictures(300, 0)
    kinds = {
        "good": generator(real),
        "other": generator(real, seed=1),
        "spoiled": generator(real, damage=1.0),
    }
    for kind, network in kinds.items():
        for family in MODELS:
            save_model(folder / kind / family, family, network)
    return folder


@pytest.fixture
def run(data, models, tmp_path, monkeypatch):
    """Puts a run's models in the root and promotes them; returns the decisions by model."""
    monkeypatch.setattr(distances, "RESAMPLES", 40)

    def run(run_id, vae="good", gan="good", spoil=lambda folder: None, content=PAGE, dataset=data, **options):
        folder = tmp_path / "runs" / run_id
        for family, kind in {"vae": vae, "gan": gan}.items():
            shutil.copytree(models / kind / family, folder / family)
        spoil(folder)
        (folder / "evaluation").mkdir()
        (folder / "evaluation" / "report.html").write_bytes(content)
        page = str(folder / "evaluation" / "report.html")
        return {each.model: each for each in promote(str(dataset), str(tmp_path), run_id, page, **options)}

    return run


def test_a_first_run_is_promoted_and_everything_tells_it(run, tmp_path):
    made = run("first")
    assert {name: each.decision for name, each in made.items()} == dict.fromkeys(MODELS, PROMOTED)
    assert read(str(tmp_path)).models == {"vae": "first", "gan": "first"}
    told = json.loads((tmp_path / "runs" / "first" / "promotion.json").read_text())
    assert told["run"] == "first" and [each["model"] for each in told["decisions"]] == ["vae", "gan"]
    page = (tmp_path / "runs" / "first" / "evaluation" / "report.html").read_text()
    assert page.startswith("<p>before</p>") and page.endswith("<p>after</p>")
    assert "<h2>Promotion</h2>" in page and "The GAN is promoted: there was no promoted model" in page


def test_a_spoiled_model_is_rejected_and_the_other_one_judged_by_itself(run, tmp_path):
    run("first")
    made = run("second", gan="spoiled")
    assert made["vae"].decision == PROMOTED and "it is as good" in made["vae"].why
    gan = made["gan"]
    assert gan.decision == REJECTED and gan.against == "first" and "and 2 are tolerated" in gan.why
    assert gan.distance - gan.against_distance > 2 * gan.standard_error > 0
    assert read(str(tmp_path)).models == {"vae": "second", "gan": "first"}
    assert read(str(tmp_path)).history[-1] == gan
    page = (tmp_path / "runs" / "second" / "evaluation" / "report.html").read_text()
    assert f"The GAN is rejected: {gan.why.replace(chr(39), '&#39;')}" in page
    made = run("third", gan="spoiled", tolerance=1e6)
    assert made["gan"].decision == PROMOTED


def test_a_vae_is_judged_by_the_prior_that_it_learned(run):
    def learn(value):
        def spoil(folder):
            noise = keras.Input((LATENTS,))
            times = keras.initializers.Identity(value)
            latents = keras.layers.Dense(LATENTS, kernel_initializer=times)(noise)
            keras.Model(noise, latents).save(folder / "vae" / "prior.keras")
            settings = json.loads((folder / "vae" / "config.json").read_text())
            (folder / "vae" / "config.json").write_text(json.dumps(settings | {"learned_prior": True}))

        return spoil

    first = run("first")["vae"]
    same = run("same", spoil=learn(1.0))["vae"]
    assert same.decision == PROMOTED, same.why
    assert same.distance == pytest.approx(first.distance)
    collapsed = run("collapsed", spoil=learn(0.0))["vae"]
    assert collapsed.decision == REJECTED and collapsed.distance > 2 * first.distance


def test_a_model_that_is_as_good_in_another_way_is_not_held_up_by_chance(run):
    run("first")
    for seed in range(3):
        made = run(f"other{seed}", gan="other" if seed % 2 == 0 else "good", seed=seed)["gan"]
        assert made.decision == PROMOTED and made.distance != made.against_distance
        assert made.distance == pytest.approx(made.against_distance, abs=3 * made.standard_error)


def truncate(folder):
    file = folder / "gan" / "generator.keras"
    file.write_bytes(file.read_bytes()[:-100])


def collapse(folder):
    (folder / "gan" / "history.csv").write_text("step,diversity_ratio\n10,0.9\n20,0.31\n")


def not_a_number(folder):
    (folder / "gan" / "history.csv").write_text("step,diversity_ratio\n10,nan\n")


def forget(folder):
    (folder / "gan" / "history.csv").unlink()


def remove(folder):
    (folder / "gan" / "discriminator.keras").unlink()


def poison(folder):
    network = keras.saving.load_model(folder / "gan" / "discriminator.keras")
    network.set_weights([np.full_like(each, np.nan) for each in network.get_weights()])
    network.save(folder / "gan" / "discriminator.keras")


FAULTS = [
    (truncate, "generator.keras' can't be loaded as a safe Keras model"),
    (remove, "has no discriminator.keras"),
    (lambda folder: to_folder(folder / "gan" / "discriminator.keras"), "discriminator.keras is a folder"),
    (poison, "gives values that are not finite"),
    (collapse, "its samples are alike, a sign of mode collapse: at the end of training they differed 0.31"),
    (not_a_number, "they differed nan times"),
    (forget, "history.csv does not say how diverse its samples were"),
]


@pytest.mark.parametrize(("fault", "why"), FAULTS, ids=[why for _, why in FAULTS])
def test_what_is_damaged_or_collapsed_is_not_even_promoted_first(run, tmp_path, fault, why):
    made = run("first", spoil=fault)
    assert made["gan"].decision == REJECTED and why in made["gan"].why
    assert made["gan"].distance is None
    assert read(str(tmp_path)).models == {"vae": "first"}


def test_a_retry_decides_nothing_anew(run, data, tmp_path):
    run("first")
    run("second", gan="spoiled")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    page = str(tmp_path / "runs" / "first" / "evaluation" / "report.html")
    (tmp_path / "runs" / "first" / "promotion.json").unlink()  # it was killed before that
    first = promote(str(data), str(tmp_path), "first", page)
    assert [each.decision for each in first] == [PROMOTED, PROMOTED]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_who_was_promoted_meanwhile_is_who_it_is_compared_with(run, tmp_path, monkeypatch):
    run("first")
    stale, measured = [Promoted()], []  # as it was when the long work began

    def measure(self, run, model, measure=Judge._measure):
        measured.append(run)
        with nothing_removed(str(tmp_path)):  # others need not wait for it
            return measure(self, run, model)

    monkeypatch.setattr(module, "read", lambda root: stale.pop() if stale else read(root))
    monkeypatch.setattr(Judge, "_measure", measure)
    monkeypatch.setattr(root_module, "_WAIT", 0.0)
    made = run("second", gan="spoiled")["gan"]
    assert made.decision == REJECTED and made.against == "first" and "first" in measured


def test_no_model_is_promoted_while_others_remove_runs_or_after_they_removed_it(run, tmp_path, monkeypatch):
    monkeypatch.setattr(root_module, "_WAIT", 0.0)
    with nothing_removed(str(tmp_path)), pytest.raises(UserError, match="in use by another process"):
        run("first")

    @contextlib.contextmanager
    def removing(root):  # as if one had waited for that
        with nothing_removed(root) as lease:
            (tmp_path / "runs" / "second" / "gan" / "discriminator.keras").unlink()
            yield lease

    monkeypatch.setattr(module, "nothing_removed", removing)
    with pytest.raises(RunError, match="gan was removed by another run while it was judged"):
        run("second")
    assert not read(str(tmp_path)).history


@pytest.mark.parametrize(("split", "count"), [("train", 30), ("test", 19), ("test", 1)])
def test_what_the_images_are_is_told_and_by_few_nothing_is_compared(run, data, tmp_path, split, count):
    run("first")
    splits = {"train": pictures(30, 2), **({"test": pictures(count, 3)} if split == "test" else {})}
    few = make_dataset(tmp_path / "few", **splits)
    made = run("second", gan="other", dataset=few)["gan"]
    if split == "train":
        assert "its distance from 30 train images, since none are held out, is" in made.why
        assert made.standard_error > 0
    else:
        assert made.decision == REJECTED and made.standard_error is None
        assert f"too few: the test split has {count}, and 20 are needed" in made.why
        assert run("third", vae="spoiled", dataset=few)["vae"].decision == REJECTED


def to_folder(file):
    file.unlink()
    file.mkdir()


def shrink(folder):
    """As if an earlier run had made smaller images."""
    for name in MODELS:
        file = folder / name / "config.json"
        file.write_text(file.read_text().replace("16, 16", "8, 8"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (shrink, "was trained for images of 8x8x3, and the data set's are 16x16x3"),
        (shutil.rmtree, "has no config.json"),
        (lambda folder: to_folder(folder / "gan" / "generator.keras"), "generator.keras is a folder"),
    ],
)
def test_what_cannot_be_compared_any_more_is_replaced_and_that_is_told(run, tmp_path, change, why):
    run("first")
    change(tmp_path / "runs" / "first")
    made = run("second", gan="spoiled")["gan"]
    assert made.decision == PROMOTED and made.against == "first" and made.distance > 0
    assert "can't be compared with the promoted model, and takes its place" in made.why and why in made.why


@pytest.mark.parametrize("name", ["config.json", "generator.keras"])
def test_a_file_that_can_not_be_read_is_no_reason_to_promote_or_to_reject(run, tmp_path, name):
    run("first")
    before = (tmp_path / "promoted.json").read_bytes()
    for run_id, place in (("second", "first"), ("third", "third")):

        def spoil(folder, place=place):
            file = tmp_path / "runs" / place / "gan" / name
            file.rename(file.with_suffix(".kept"))
            file.symlink_to(file)  # which gives an error when it is read, as a volume that fails does

        with pytest.raises(OSError, match=name):
            run(run_id, spoil=spoil)
        assert (tmp_path / "promoted.json").read_bytes() == before
        kept = tmp_path / "runs" / place / "gan" / name
        kept.unlink()
        kept.with_suffix(".kept").rename(kept)


def test_a_damaged_pointer_and_a_page_of_others_are_told_before_anything_is_written(run, tmp_path):
    (tmp_path / "promoted.json").write_text("{}")
    with pytest.raises(UserError, match="promoted.json does not say"):
        run("first")
    assert (tmp_path / "promoted.json").read_text() == "{}"
    (tmp_path / "promoted.json").unlink()

    with pytest.raises(RunError, match="no place for the promotion"):
        run("second", content=b"<p>mine</p>")
    assert not (tmp_path / "promoted.json").exists()
    with pytest.raises(UserError, match="--tolerance -1.0 is out of bounds"):
        run("third", tolerance=-1.0)


def test_the_component_works_on_a_bucket_and_with_the_evaluations_own_report(data, models, bucket, tmp_path):
    for family in MODELS:
        for file in (models / "good" / family).iterdir():
            storage.write(bucket / "root" / "runs" / "r1" / family / file.name, file.read_bytes())
    root = str(bucket / "root")
    folders = {family: f"{root}/runs/r1/{family}" for family in MODELS}
    evaluate(str(data), f"{root}/runs/r1/evaluation", folders)
    metrics, report = dsl.Metrics(), dsl.HTML(uri=str(tmp_path / "report.html"))
    component.python_func(
        dataset=dsl.Dataset(metadata={"location": str(data)}),
        root=root,
        run_id="r1",
        evaluation=f"{root}/runs/r1/evaluation/report.html",
        metrics=metrics,
        report=report,
        seed=0,
        tolerance=2.0,
        keep=5,
    )
    assert metrics.metadata["gan.promoted"] == 1 and metrics.metadata["gan.distance"] > 0
    assert metrics.metadata["vae.why"].startswith("there was no promoted model")
    page = (tmp_path / "report.html").read_bytes()
    assert page == storage.read(bucket / "root" / "runs" / "r1" / "evaluation" / "report.html")
    assert b"What the models learned" in page and b"<h2>Promotion</h2>" in page
    again = evaluate(str(data), f"{root}/runs/r1/evaluation", folders)  # it is still one of ours
    assert "ompared with the evaluation before, " in again["judgement"]
    assert set(read(root).models) == set(MODELS)
    evaluation.python_func(
        **{"dataset": dsl.Dataset(metadata={"location": str(data)}), "root": root, "run_id": "r2"},
        **{"destination": "", "metrics": metrics, "report": report},
        **dataclasses.asdict(EvaluateOptions(features="random")),
        **{family: dsl.Model(uri=str(models / "good" / family)) for family in MODELS},
    )
    found = json.loads(storage.read(bucket / "root" / "runs" / "r2" / "evaluation" / "metrics.json"))
    assert "ompared with the promoted model, " in found["judgement"]


def test_one_goes_back_to_what_loads(run, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    root = str(tmp_path)
    with pytest.raises(UserError, match="is no pipeline's root, for it has no folder runs"):
        rollback(root)
    assert list(tmp_path.iterdir()) == []
    run("first")
    with pytest.raises(UserError, match="none was promoted before: name another run with --to"):
        rollback(root)
    run("second", gan="spoiled")
    (back,) = rollback(root)
    assert (back.model, back.run, back.decision) == ("vae", "first", ROLLED_BACK)
    assert back.why == "rolled back from second" and read(root).history[-1] == back
    assert read(root).models == {"vae": "first", "gan": "first"}

    (again,) = rollback(root, to="second")  # not the GAN, which was rejected
    assert again.model == "vae" and "not of run second, where it was never promoted: gan" in caplog.text
    rollback(root, to="first")
    rollback(root, to="second", model="gan")  # whatever was decided about it
    assert read(root).models == {"vae": "first", "gan": "second"}
    truncate(tmp_path / "runs" / "first")
    before = (tmp_path / "promoted.json").read_bytes()
    for to, model, why in (
        ("first", "", "generator.keras' can't be loaded"),
        ("third", "", "or never were: name one with --model"),
        ("third", "gan", "has no config.json"),
        ("../first", "", "can't be a folder's name"),
        ("second", "gan", "the models of run second are promoted already"),
        ("second", "diffusion", "model diffusion is unknown"),
    ):
        with pytest.raises(UserError, match=why):
            rollback(root, to, model)
    assert (tmp_path / "promoted.json").read_bytes() == before


def test_one_goes_back_from_what_is_promoted_when_nobody_else_writes(run, tmp_path, monkeypatch):
    root = str(tmp_path)
    for run_id in ("first", "second", "third"):
        run(run_id, gan="spoiled")

    @contextlib.contextmanager
    def late(root):  # while it waited, another one went back
        with nothing_removed(root) as lease:
            back = Decision(run="second", model="vae", decision=ROLLED_BACK, why="it was faster")
            update(root, lambda present: present.decide(back))
            yield lease

    monkeypatch.setattr(rollback_module, "nothing_removed", late)
    (back,) = rollback(root, model="vae")
    assert (back.run, back.against) == ("first", "second")
