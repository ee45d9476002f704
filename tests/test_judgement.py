import copy
import json

import pytest

from latentfaces.components.evaluate.judgement import judge, read_earlier

TITLES = {"vae": "VAE", "gan": "GAN"}
METRICS = {
    "seed": 0,
    "dataset": "digest",
    "held_out": {"split": "test", "examples": 300},
    "vae": {"reconstruction_psnr_db": 24.0, "principal_components_psnr_db": 22.0, "memorised_share": 0.01},
    "gan": {"diversity_ratio": 0.9, "memorised_share": 0.0},
    "distances": {
        "features": "attributes",
        "count": 300,
        "train": {"frechet_distance": 1.0, "kernel_distance": 0.0, "kernel_distance_error": 0.1},
        "vae_samples": {"frechet_distance": 9.0, "kernel_distance": 5.0, "kernel_distance_error": 0.3},
        "gan_samples": {"frechet_distance": 2.0, "kernel_distance": 1.0, "kernel_distance_error": 0.4},
    },
    "concepts": {"Smiling": {"works": True}, "Male": {"works": True}, "Bald": {"works": False}},
    "notes": [],
}
GOOD = (
    "The VAE reconstructs better than principal components (24.0 dB against 22.0 dB), 2 of 3 concepts of the "
    "VAE work, and the GAN's samples are near to real images (Fréchet distance 2, other real images 1)"
)
BAD = "; but the VAE's samples are far from real images (Fréchet distance 9, other real images 1)"


def changed(**values):
    """The metrics with other numbers, at places such as `vae__reconstruction_psnr_db`."""
    found = copy.deepcopy(METRICS)
    for place, value in values.items():
        *keys, last = place.split("__")
        inner = found
        for key in keys:
            inner = inner[key]
        inner[last] = value
    return found


def judged(metrics, earlier=None):
    return judge(metrics, TITLES, {} if earlier is None else dict.fromkeys(TITLES, earlier), "the one before")


def test_one_sentence_says_what_is_good_and_what_is_not():
    assert judged(METRICS) == f"{GOOD}{BAD}."
    assert judged({"seed": 0, "notes": []}) == ""


def test_of_few_images_nobody_says_how_far_they_are():
    assert "real images" not in judged(changed(distances__count=249))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vae__reconstruction_psnr_db": 21.0}, "but the VAE reconstructs worse than principal components"),
        ({"gan__diversity_ratio": 0.3}, "the GAN's samples are alike (30.0"),
        ({"gan__memorised_share": 0.2}, "of the GAN's samples are as near to train images as copies"),
        ({"concepts__Male__works": False}, "1 of 3 concepts of the VAE work"),
    ],
)
def test_what_is_bad_is_said(change, says):
    assert says in judged(changed(**change)) and says not in judged(METRICS)


def test_what_differs_by_more_than_chance_is_compared():
    earlier = changed(vae__reconstruction_psnr_db=23.0, distances__gan_samples__kernel_distance=3.0)
    assert judged(METRICS, earlier) == (
        f"{GOOD}{BAD}; compared with the one before, the VAE's reconstructions are better (24.0 dB, then "
        "23.0 dB), and the GAN's samples are nearer to real images (kernel distance 1, then 3)."
    )
    worse = judged(earlier, METRICS)
    assert "farther from" in worse and "reconstructions are worse" in worse
    close = changed(vae__reconstruction_psnr_db=23.95, distances__gan_samples__kernel_distance=2.0)
    assert judged(METRICS, close).endswith(
        "; compared with the one before, nothing differs by more than chance."
    )


NOTHING = "the one before was measured otherwise, and can't be compared."
RECONSTRUCTIONS = (
    "compared with the one before, the VAE's reconstructions are better (24.0 dB, then 20.0 dB)."
)


@pytest.mark.parametrize(
    ("change", "rest"),
    [
        ({"dataset": "other"}, NOTHING),
        ({"held_out__examples": 299}, NOTHING),
        ({"distances__count": 299}, RECONSTRUCTIONS),
        ({"distances__features": "random"}, RECONSTRUCTIONS),
        ({"seed": 1}, RECONSTRUCTIONS),
    ],
)
def test_only_like_is_compared_with_like(change, rest):
    worse = {"vae__reconstruction_psnr_db": 20.0, "distances__gan_samples__kernel_distance": 9.0}
    assert judged(METRICS, changed(**worse, **change)) == f"{GOOD}{BAD}; {rest}"


def test_features_that_no_seed_makes_are_compared_whatever_the_seed():
    random = changed(distances__features="random")
    earlier = changed(distances__features="random", distances__gan_samples__kernel_distance=9.0, seed=1)
    assert "the GAN's samples are nearer" in judged(random, earlier)


DISTANCES = {"features": "attributes", "count": 300, "gan_samples": 1}
FILES = [
    *("", "[]", "{", "\udcff", "[" * 100_000, '{"vae": {"reconstruction_psnr_db": "24"}}'),
    json.dumps({**METRICS, "vae": [], "distances": DISTANCES}),
    json.dumps(changed(vae__reconstruction_psnr_db=True, distances=None)),
    json.dumps(changed(vae__reconstruction_psnr_db=float("nan"), distances={})),
    json.dumps(changed(vae__reconstruction_psnr_db=10**400, distances={})),
]


@pytest.mark.parametrize("text", FILES)
def test_an_earlier_file_may_hold_anything(tmp_path, text):
    (tmp_path / "metrics.json").write_bytes(text.encode(errors="surrogateescape"))
    assert "compared with" not in judged(METRICS, read_earlier(str(tmp_path)))
    assert read_earlier(str(tmp_path / "none")) == {}
