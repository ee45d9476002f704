"""The report in a real browser: Debian's Chromium, without a window."""

import base64
import functools
import html
import io
import json
import re
import shutil
from unittest import mock

import keras
import numpy as np
import pytest
from conftest import make_dataset
from keras import layers
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from latentfaces.common.config import EvaluateOptions
from latentfaces.components.evaluate import classifier, interactive, report
from latentfaces.components.evaluate.figures import FIGURES
from latentfaces.components.evaluate.inputs import Inputs
from latentfaces.components.evaluate.metrics import METRICS
from latentfaces.components.evaluate.registry import Animation, Finding
from latentfaces.components.evaluate.steps import UnsupportedError, export
from latentfaces.components.train.convolution import portable
from latentfaces.components.train.models import dcgan, faces_vae, vae
from latentfaces.preprocessing.resize import smart_resize

SHAPE = (16, 16, 3)
BAD = "</script><b>Bold</b>"


@pytest.fixture(scope="module")
def browser():
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if not driver or not chromium:
        pytest.skip("these tests need a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def look(browser, width=1280, **features):
    """Sets the window's width, and media features such as `prefers_color_scheme`."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": named})


def quiet(browser):
    """Waits until every face is drawn."""
    script = "return !document.querySelector('.large[aria-busy=true]')"
    WebDriverWait(browser, 60, 0.02).until(lambda _: browser.execute_script(script))


def show(browser, file):
    browser.get(f"file://{file}")
    quiet(browser)


def face(browser, model="VAE", kind="large"):
    """The pixels of a model's canvas, uint8 [H, W, 3]."""
    script = "return document.querySelector(`[aria-label='${arguments[0]}'] .${arguments[1]}`).toDataURL()"
    data = browser.execute_script(script, model, kind).split(",")[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def slide(browser, slider, value):
    script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    browser.execute_script(script, slider, value)
    quiet(browser)


def of(browser, selector, model="VAE"):
    return browser.find_elements(By.CSS_SELECTOR, f"[aria-label='{model}'] {selector}")


def draw(count, seed):
    """Noise; a smile is a bright bar below, the other attribute a dark one above."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 190, (count, *SHAPE), np.uint8)
    attributes = rng.integers(0, 2, (count, 2), np.uint8)
    images[attributes[:, 0] == 1, 11:14] = 255
    images[attributes[:, 1] == 1, 2:5] = 0
    return images, attributes


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What is evaluated, and what was found: a VAE whose latents are the pixels, and a GAN."""
    root = tmp_path_factory.mktemp("report")
    make_dataset(root / "data", ("Smiling", BAD), train=draw(300, 0), test=draw(60, 1))
    refused = [{"source": f"{number}<i>.jpg", "reason": "empty & bad"} for number in range(60)]
    (root / "data" / "rejected.jsonl").write_text("".join(json.dumps(each) + "\n" for each in refused))
    images, latents, few = keras.Input(SHAPE), keras.Input((768,)), keras.Input((5,))
    mean = layers.Flatten()(images)
    pixels = layers.Dense(768, "sigmoid", kernel_initializer=keras.initializers.GlorotNormal(seed=1))(few)
    networks = {
        "vae": {
            "encoder": keras.Model(images, [mean, 0 * mean]),
            "decoder": keras.Model(latents, layers.Reshape(SHAPE)(latents)),
        },
        "gan": {"generator": keras.Model(few, layers.Reshape(SHAPE)(pixels))},
    }
    for name, own in networks.items():
        (root / name).mkdir()
        for file, network in own.items():
            network.save(root / name / f"{file}.keras")
        config = {"model": name, "image_shape": SHAPE, "preset": "<u>"}
        (root / name / "config.json").write_text(json.dumps(config))
        rows = "".join(f"{10 * step},{9 - step}\n" for step in range(1, 8))
        (root / name / "history.csv").write_text(f"step,loss\n{rows}")
    inputs = Inputs(
        str(root / "data"), {name: str(root / name) for name in networks}, EvaluateOptions(features="random")
    )
    brief = functools.partial(classifier.train_classifier, steps=150)
    with mock.patch.object(classifier, "train_classifier", brief):
        results, pictures = list(METRICS.run(inputs)), list(FIGURES.run(inputs))
    frames = [Image.new("RGB", (300, 200), color) for color in ("red", "blue")]
    moving = Animation("Moving", "It moves.", "A film", frames[0], frames=frames, milliseconds=100)
    return inputs, results, [*pictures, Finding(0, "moving", "", moving)]


def render(found, file):
    page = report.render(*found, "All is <well>.")
    file.write_text(page)
    return page


@pytest.fixture(scope="module")
def file(found, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    render(found, file)
    return file


# ---- the networks


def mixed():
    """One of every layer that is known and in no preset, connected as a graph."""
    latents = keras.Input((6,))
    x = layers.Reshape((4, 3, 8))(layers.Dense(96, activation="silu")(latents))
    x = layers.GroupNormalization(4)(layers.Conv2D(16, 3, strides=2, padding="same", activation="tanh")(x))
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = layers.Conv2D(8, (3, 2), use_bias=False)(x)
    x = layers.BatchNormalization()(layers.Conv2DTranspose(8, 3, strides=2, padding="same")(x))
    x = layers.LayerNormalization()(layers.UpSampling2D((1, 2))(x))
    x = layers.Add()([x, layers.Conv2D(8, 1)(x)]) * layers.ReLU(max_value=2)(x)
    x = layers.Permute((3, 1, 2))(keras.ops.depth_to_space(x, 2))
    x = layers.Rescaling(0.5, 0.1)(layers.Dropout(0.5)(x))
    x = keras.ops.clip(layers.Concatenate()([x * 0.5 + 1, layers.LeakyReLU(0.3)(x)]), 0, 1)
    model = keras.Model(latents, x)
    normalization = next(each for each in model.layers if isinstance(each, layers.BatchNormalization))
    normalization.moving_variance.assign(np.linspace(0.1, 2, 8))
    normalization.moving_mean.assign(np.linspace(-0.3, 0.3, 8))
    return model


NETWORKS = {
    "VAE small": lambda: faces_vae.decoder((32, 32, 3), 64, faces_vae.FILTERS["small"]),
    "VAE small encoder": lambda: faces_vae.encoder((32, 32, 3), 64, faces_vae.FILTERS["small"]),
    "VAE book": lambda: vae.decoder((28, 28, 1), 2),
    "VAE book encoder": lambda: vae.encoder((28, 28, 1), 2),
    "VAE faces": lambda: faces_vae.decoder((64, 64, 3), 128, faces_vae.FILTERS["faces"]),
    "VAE faces encoder": lambda: faces_vae.encoder((64, 64, 3), 128, faces_vae.FILTERS["faces"]),
    "GAN small": lambda: dcgan.build("small", (32, 32, 3), 64)["generator"],
    "GAN book": lambda: dcgan.build("book", (32, 32, 3), 128)["generator"],
    "mixed": mixed,
}


def load(browser, model):
    """Loads a model into the page's script, as `network`."""
    browser.get("about:blank")
    browser.execute_script(
        (report._HERE / "decoder.js").read_text() + "Object.assign(window, { load, run });"
    )
    script = "window.network = load(JSON.parse(arguments[0]))"
    browser.execute_script(script, json.dumps(export(model).as_json()))


def run(browser, values, times=1):
    script = """
    let made;
    for (let i = 0; i < arguments[1]; i++) made = run(network, Float32Array.from(arguments[0]));
    return Array.from(made);
    """
    return np.array(browser.execute_script(script, values.ravel().tolist(), times))


TIMED = {"VAE small": 0.06, "VAE faces": 1}  # seconds at the most


def compare(browser, name):
    """Loads a network, and finds that it gives in the browser what it gives in Keras; returns its input."""
    keras.utils.set_random_seed(1)
    model = portable(NETWORKS[name]()) if name != "mixed" else NETWORKS[name]()
    if "book" in name:  # whose fresh weights make plain grey
        model.set_weights([(5 if "VAE" in name else 3) * each for each in model.get_weights()])
    rng = np.random.default_rng(1)  # in place of weights that begin as zeros
    model.set_weights(
        [each if each.any() else rng.normal(0, 0.05, each.shape) for each in model.get_weights()]
    )
    values = np.random.default_rng(0).normal(size=(1, *model.input.shape[1:])).astype(np.float32)
    expected = np.asarray(keras.tree.flatten(model(values))[0]).ravel()
    assert np.ptp(expected) > 0.2
    load(browser, model)
    np.testing.assert_allclose(run(browser, values), expected, atol=0.01 * max(1, np.ptp(expected)))
    return values


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in TIMED])
def test_a_network_gives_in_the_browser_what_it_gives_in_keras(browser, name):
    compare(browser, name)


@pytest.mark.parametrize(("name", "most"), TIMED.items())
def test_a_face_is_the_same_and_takes_so_many_seconds_of_one_core(browser, name, most):
    """By the time that the page's thread had, which does not depend on what else the machine does."""

    def seconds():
        metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return next(each["value"] for each in metrics if each["name"] == "ThreadTime")

    values = compare(browser, name)
    run(browser, values, 3)  # the browser compiles what is run often
    browser.execute_cdp_cmd("Performance.enable", {})
    began = seconds()
    run(browser, values, 5)
    assert 0 < (seconds() - began) / 5 < most


def test_what_the_page_can_not_run_is_refused():
    images = keras.Input((8, 8, 4))
    cases = [
        (layers.MaxPooling2D()(images), "knows no layer MaxPooling2D"),
        (layers.Conv2D(4, 3, dilation_rate=2, name="wide")(images), "all settings of its layer wide"),
        (layers.Conv2DTranspose(4, 3, name="edge")(images), "all settings of its layer edge"),
        (layers.Dense(3, activation="gelu")(images), "knows no activation gelu"),
        (layers.Rescaling(1e6)(images), "too large for half precision"),
        (layers.Rescaling(np.ones((8, 4)), name="rows")(images), "all settings of its layer rows"),
        (layers.Flatten("channels_first", name="turned")(images), "all settings of its layer turned"),
        (keras.ops.clip(images, [0.0] * 4, 1.0), "all settings of its layer clip"),
    ]
    for output, says in cases:
        with pytest.raises(UnsupportedError, match=says):
            export(keras.Model(images, output))


# ---- the page


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_a_message_and_nothing_runs_over_the_edge(browser, file, width, scheme):
    look(browser, width, prefers_color_scheme=scheme)
    show(browser, file)
    assert browser.execute_script("return engine.worker !== null")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []


def test_what_strangers_wrote_is_shown_and_not_run(browser, file):
    look(browser)
    show(browser, file)
    text = browser.find_element(By.TAG_NAME, "body").text
    for shown in ("All is <well>.", BAD, "0<i>.jpg", "empty & bad", "<u>"):
        assert shown in text
    assert not browser.find_elements(By.CSS_SELECTOR, "b, i, u")
    assert len(browser.find_elements(By.CSS_SELECTOR, "[aria-label^=refused] tbody tr")) == report.REFUSED


def test_every_control_changes_the_picture(browser, file, tmp_path):
    look(browser)
    show(browser, file)
    Image.fromarray(draw(1, 9)[0][0]).save(tmp_path / "photograph.png")
    for model in ("VAE", "GAN"):
        before = face(browser, model)
        actions = [(of(browser, ".way", model)[0], 0.5)]
        actions += [(slider, slider.get_attribute("max")) for slider in of(browser, ".concept", model)]
        actions += [(button, None) for button in of(browser, "button", model)]
        assert len(actions) == {"VAE": 6, "GAN": 3}[model]
        for control, value in actions:
            if value is None:
                if control.text.startswith("Another"):
                    slide(browser, of(browser, ".way", model)[0], 0.25)
                    before = face(browser, model)
                control.click()
                quiet(browser)
            else:
                slide(browser, control, value)
            after = face(browser, model)
            assert not np.array_equal(before, after)
            before = after
    of(browser, ".photograph")[0].send_keys(str(tmp_path / "photograph.png"))
    WebDriverWait(browser, 10, 0.02).until(lambda _: "not left" in of(browser, ".status")[0].text)
    quiet(browser)
    assert not np.array_equal(face(browser), before)
    (tmp_path / "text.png").write_text("none")
    of(browser, ".photograph")[0].send_keys(str(tmp_path / "text.png"))
    WebDriverWait(browser, 10, 0.02).until(lambda _: "choose a JPEG" in of(browser, ".status")[0].text)


def test_faces_are_moved_along_concepts_and_towards_one_another_as_in_python(browser, file, found):
    from latentfaces.components.evaluate.latents import slerp

    look(browser)
    show(browser, file)
    model, (concept, _) = found[0].models[0], interactive.working(found[0].models[0])
    slider, way = of(browser, ".concept")[0], of(browser, ".way")[0]
    for share, value in ((0, 0), (0.5, 0), (0.5, concept.strength / 2), (0.25, -concept.strength)):
        slide(browser, slider, value)
        slide(browser, way, share)
        start = slerp(model.means[:1], model.means[1:2], 101)[:, round(100 * share)]
        exact = model.generate(start + float(slider.get_attribute("value")) * concept.vector)[0]
        np.testing.assert_allclose(face(browser) / 255, np.clip(exact, 0, 1), atol=0.01)


def test_a_photograph_is_cropped_and_resized_as_the_data_set_is(browser, file, tmp_path):
    look(browser)
    for height, width in ((50, 37), (33, 90)):
        photograph = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(photograph).save(tmp_path / "photograph.png")
        show(browser, file)
        of(browser, ".photograph")[0].send_keys(str(tmp_path / "photograph.png"))
        WebDriverWait(browser, 10, 0.02).until(lambda _: "not left" in of(browser, ".status")[0].text)
        quiet(browser)
        np.testing.assert_allclose(face(browser), smart_resize(photograph, 16), atol=1)


def test_it_works_in_a_sandboxed_frame(browser, file, tmp_path):
    """As Kubeflow shows it."""
    look(browser)
    page = html.escape(file.read_text())
    frame = f'<iframe sandbox="allow-scripts" width=1200 height=800 srcdoc="{page}"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!doctype html><meta charset=utf-8>{frame}")
    browser.get(f"file://{tmp_path}/frame.html")
    browser.switch_to.frame(0)
    quiet(browser)
    assert browser.execute_script("return engine.worker !== null")
    before = face(browser)
    slide(browser, of(browser, ".concept")[0], 1)
    assert before.any() and not np.array_equal(face(browser), before)
    browser.switch_to.default_content()
    assert browser.get_log("browser") == []


def test_without_a_worker_it_works_too(browser, file):
    look(browser)
    broken = "window.Worker = class { constructor() { setTimeout(() => this.onerror()); } postMessage() {} }"
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": broken})
    try:
        show(browser, file)
        assert browser.execute_script("return engine.worker === null")
        before = face(browser)
        slide(browser, of(browser, ".concept")[0], 1)
        assert before.any() and not np.array_equal(face(browser), before)
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_frames_stand_for_a_network_that_does_not_fit(browser, found, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MOST", 0)
    page = render(found, tmp_path / "report.html")
    assert "would make the page too large. What the sliders show was drawn beforehand." in page
    look(browser)
    show(browser, tmp_path / "report.html")
    assert of(browser, "canvas", "GAN") == [] and of(browser, ".way") == of(browser, ".photograph") == []
    model, (concept, _) = found[0].models[0], interactive.working(found[0].models[0])
    WebDriverWait(browser, 10, 0.02).until(lambda _: face(browser).any())
    for value in (0, interactive.REACH * concept.strength):
        slide(browser, of(browser, ".concept")[0], value)
        exact = np.clip(model.generate(model.means[:1] + np.float32(value) * concept.vector)[0], 0, 1)
        assert np.abs(face(browser) / 255 - exact).mean() < 0.1  # it was packed
    of(browser, ".another")[0].click()
    assert browser.get_log("browser") == []


def test_frames_fill_the_time_until_a_slow_network_has_answered(browser, found, tmp_path, monkeypatch):
    monkeypatch.setattr(interactive, "SLOW", -1)
    render(found, tmp_path / "report.html")
    look(browser)
    show(browser, tmp_path / "report.html")
    exact = face(browser)
    browser.execute_script("engine.ask = () => new Promise((resolve) => { window.answer = resolve; })")
    slider = of(browser, ".concept")[0]
    script = "arguments[0].value = arguments[0].max; arguments[0].dispatchEvent(new Event('input'))"
    browser.execute_script(script, slider)
    coarse = face(browser)
    assert not np.array_equal(coarse, exact)
    browser.execute_script("answer(new Float32Array(768))")
    quiet(browser)
    assert not face(browser).any()


def test_curves_are_read_with_pointer_and_keys(browser, file):
    look(browser)
    show(browser, file)
    card = browser.find_element(By.CSS_SELECTOR, "[data-values]")
    read, svg, slider = (card.find_element(By.CSS_SELECTOR, each) for each in (".read", "svg", "input"))
    assert read.text == "last: 2"
    browser.execute_script("arguments[0].scrollIntoView({ behavior: 'instant', block: 'center' })", card)
    ActionChains(browser).move_to_element(svg).perform()
    assert read.text == "step 30: 6"
    ActionChains(browser).move_to_element(card.find_element(By.TAG_NAME, "h3")).perform()
    assert read.text == "last: 2"
    slider.send_keys(Keys.HOME)
    assert read.text == slider.get_attribute("aria-valuetext") == "step 10: 8"
    slider.send_keys(Keys.ARROW_RIGHT)
    assert read.text == "step 20: 7"


def test_pictures_open_at_full_size_and_are_there_once(browser, file, found):
    page = file.read_text()
    sources = re.findall(r'src(?:set)?="(data:[^"]+)"', page)
    films = sum(isinstance(each.content, Animation) for each in found[2])  # each with its still image
    assert films > 1 and len(sources) == len(set(sources)) == len(found[2]) + films
    look(browser)
    show(browser, file)
    dialog = browser.find_element(By.TAG_NAME, "dialog")
    buttons = browser.find_elements(By.CSS_SELECTOR, "figure .open")
    assert not dialog.is_displayed()
    buttons[0].send_keys(Keys.ENTER)
    titles = [each.content.title for each in found[2]]

    def shown():
        return [dialog.find_element(By.CSS_SELECTOR, each) for each in ("h3", ".full img")]

    title, picture = shown()
    assert title.text == titles[0]
    assert picture.get_property("naturalWidth") == found[2][0].content.image.width == picture.size["width"]
    ActionChains(browser).send_keys(Keys.ARROW_LEFT).perform()
    assert title.text == "Moving" and picture.get_attribute("alt") == "A film"
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT).perform()
    assert title.text == titles[1]
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert not dialog.is_displayed()
    WebDriverWait(browser, 10, 0.02).until(lambda _: browser.switch_to.active_element == buttons[1])


def test_who_wants_no_motion_sees_a_still_image(browser, file):
    sources = []
    for wanted in ("no-preference", "reduce"):
        look(browser, prefers_reduced_motion=wanted)
        show(browser, file)
        sources.append(browser.find_elements(By.CSS_SELECTOR, "figure img")[-1].get_property("currentSrc"))
    frames = [Image.open(io.BytesIO(base64.b64decode(each.split(",")[1]))).n_frames for each in sources]
    assert frames == [2, 1]


def test_the_promotion_finds_its_place_and_its_style(browser, file, tmp_path):
    from latentfaces.components.promote.section import put

    section = '<div id="promoted" style="margin-top: 7px"></div>'
    (tmp_path / "report.html").write_bytes(put(file.read_bytes(), section))
    show(browser, tmp_path / "report.html")
    assert browser.find_element(By.ID, "promoted").value_of_css_property("margin-top") == "7px"


@pytest.mark.parametrize("line", ['{"source": [5], "reason": "x"}', "[1]", '"text"', '{"source": 5}', "{"])
def test_what_is_no_list_of_refused_files_is_not_shown(line, tmp_path):
    (tmp_path / "rejected.jsonl").write_text(line)
    assert report._refused(str(tmp_path)) == []


def test_no_setting_of_a_stranger_fills_the_page():
    assert report._setting("x" * 1_000_000) == "x" * 300
    assert report._setting([8, 8, 3]) == "8 × 8 × 3" and report._setting("") == report._setting(None) == "–"
