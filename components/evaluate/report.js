// What moves in the report: the trained networks at work, curves that can be read, pictures at full size.
// decoder.js, which stands before this, computes; in a worker where the browser allows one.
"use strict";

const models = JSON.parse(document.getElementById("models").textContent);

/** Runs networks, one after the other: `ask(name, input)` promises what the network of that name makes. */
class Engine {
  constructor(networks) {
    this.networks = networks;
    this.asked = [];
    try {
      const script = document.currentScript.previousElementSibling.textContent;
      this.worker = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
      this.worker.onmessage = ({ data }) => this.asked.shift().resolve(data);
      this.worker.onerror = () => this.useThisThread();
      for (const [name, network] of Object.entries(networks)) this.worker.postMessage({ name, network });
    } catch {
      this.useThisThread();
    }
  }

  /** Where no worker may run; what was asked of it is answered here. */
  useThisThread() {
    this.worker = null;
    this.loaded = {};
    for (const { name, input, resolve } of this.asked.splice(0)) this.ask(name, input).then(resolve);
  }

  ask(name, input) {
    if (!this.worker) {
      return new Promise((resolve) => setTimeout(() => {
        this.loaded[name] ??= load(this.networks[name]);
        resolve(run(this.loaded[name], input));
      }));
    }
    return new Promise((resolve) => {
      this.asked.push({ name, input, resolve });
      this.worker.postMessage({ name, input });
    });
  }
}

/** Spherical interpolation, as in components/evaluate/latents.py. */
function slerp(a, b, t) {
  const length = (x) => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0));
  const lengthA = length(a), lengthB = length(b);
  const cosine = a.reduce((sum, value, i) => sum + value * b[i], 0) / (lengthA * lengthB || 1);
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine))), sine = Math.sin(angle);
  if (!(sine > 1e-3)) return a.map((value, i) => (1 - t) * value + t * b[i]);
  const reach = (1 - t) * lengthA + t * lengthB;
  const left = (Math.sin((1 - t) * angle) / sine / lengthA) * reach, right = (Math.sin(t * angle) / sine / lengthB) * reach;
  return a.map((value, i) => left * value + right * b[i]);
}

/** Draws values in [0, 1], one channel or three, into a canvas. */
function paint(canvas, values) {
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  const channels = values.length / (canvas.width * canvas.height);
  for (let i = 0; i < canvas.width * canvas.height; i++) {
    for (let k = 0; k < 3; k++) image.data[4 * i + k] = 255 * values[i * channels + (channels === 1 ? 0 : k)];
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** A photograph as the encoder wants it: its middle, of the images' shape, resized as the data set's are. */
async function photograph(file, [height, width, channels]) {
  const bitmap = await createImageBitmap(file);
  const side = Math.min(bitmap.width / width, bitmap.height / height);
  const across = Math.round(side * width), down = Math.round(side * height);
  const canvas = Object.assign(document.createElement("canvas"), { width: across, height: down });
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, across, down);
  context.drawImage(bitmap, -Math.trunc((bitmap.width - across) / 2), -Math.trunc((bitmap.height - down) / 2));
  const resized = resize(context.getImageData(0, 0, across, down).data, [down, across, 4], [height, width]);
  const pixels = new Float32Array(height * width * channels);
  for (let i = 0; i < height * width; i++) {
    const [red, green, blue] = resized.subarray(4 * i);
    const values = channels === 1 ? [0.299 * red + 0.587 * green + 0.114 * blue] : [red, green, blue];
    values.forEach((value, k) => { pixels[i * channels + k] = Math.round(value) / 255; });
  }
  return pixels;
}

/** One model's card: its controls say which latents are drawn. */
class Play {
  constructor(card, model, engine) {
    this.model = model;
    this.engine = engine;
    this.find = (selector) => card.querySelector(selector);
    this.canvas = this.find(".large");
    if (!this.canvas) return;
    const faces = unpack(model.faces), { dimensions } = model;
    this.faces = Array.from({ length: faces.length / dimensions }, (_, i) => faces.slice(i * dimensions, (i + 1) * dimensions));
    this.concepts = model.concepts.map(({ vector, ...others }) => ({ ...others, vector: unpack(vector) }));
    this.sliders = [...card.querySelectorAll(".concept")];
    this.start = this.next(0);
    this.end = this.next(1);
    for (const slider of [...this.sliders, this.find(".way")].filter(Boolean)) slider.oninput = () => this.draw();
    this.on("click", ".another", () => { this.start = this.next(this.at + 1); this.draw(); });
    this.on("click", ".target", () => { this.end = this.next(this.at + 1); this.drawEnd(); this.draw(); });
    this.on("click", ".reset", () => { for (const each of this.sliders) each.value = 0; this.draw(); });
    this.on("change", ".photograph", ({ target }) => this.take(target.files[0]));
    if (model.encoder) {
      card.ondragover = (event) => { event.preventDefault(); card.classList.add("drop"); };
      card.ondragleave = () => card.classList.remove("drop");
      card.ondrop = (event) => { event.preventDefault(); card.classList.remove("drop"); this.take(event.dataTransfer.files[0]); };
    }
    this.begin();
  }

  on(event, selector, action) {
    this.find(selector)?.addEventListener(event, action);
  }

  async begin() {
    if (this.model.frames) await this.readFrames(this.model.frames);
    await this.draw();
    this.drawEnd();
  }

  /** A held-out face, or of a model without an encoder a random one. */
  next(number) {
    this.at = number;
    if (this.faces.length) return this.faces[number % (this.model.generator ? this.faces.length : this.model.frames.rows)];
    return Float32Array.from({ length: this.model.dimensions }, () =>
      Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()));
  }

  /** The latents that the controls ask for. */
  latents(way = Number(this.find(".way")?.value ?? 0)) {
    const point = slerp(this.start, this.end, way);
    this.sliders.forEach((slider, k) => {
      const { vector } = this.concepts[k];
      for (let i = 0; i < point.length; i++) point[i] += slider.value * vector[i];
    });
    return point;
  }

  /** Shows what the controls ask for; while it is computed only the newest wish is kept. */
  async draw() {
    this.tell();
    if (this.coarse) this.drawCoarsely();
    if (!this.model.generator) return this.canvas.setAttribute("aria-busy", false);
    this.wanted = true;
    this.canvas.setAttribute("aria-busy", true);
    if (this.busy) return;
    this.busy = true;
    while (this.wanted) {
      this.wanted = false;
      const began = performance.now(), image = await this.engine.ask(`${this.model.name} generator`, this.latents());
      if (!(this.wanted && this.coarse && this.row >= 0)) paint(this.canvas, image);
      this.canvas.title = `drawn in ${Math.round(performance.now() - began)} ms`;
    }
    this.busy = false;
    this.canvas.setAttribute("aria-busy", false);
  }

  async drawEnd() {
    const small = this.find(".small");
    if (small) paint(small, await this.engine.ask(`${this.model.name} generator`, this.end));
  }

  /** Writes each slider's value beside its name. */
  tell() {
    for (const slider of this.sliders) {
      const value = Number(slider.value), text = value ? `${value > 0 ? "+" : "−"}${Math.abs(value).toFixed(1)} ×` : "0";
      slider.parentElement.querySelector("output").textContent = text;
    }
    const way = this.find(".way");
    if (way) way.parentElement.querySelector("output").textContent = `${Math.round(100 * way.value)} %`;
  }

  /** Takes the sheet of frames apart: for each face itself and both ends of every slider. */
  async readFrames({ sheet, size: [height, width], rows }) {
    const picture = new Image();
    picture.src = sheet;
    await picture.decode();
    const canvas = Object.assign(document.createElement("canvas"), { width: picture.width, height: picture.height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    this.coarse = Array.from({ length: rows }, (_, row) => Array.from({ length: picture.width / width }, (_, column) =>
      context.getImageData(column * width, row * height, width, height).data));
    if (!this.model.generator) Object.assign(this.canvas, { width, height });
    this.frame = [height, width, 4];
  }

  /** Which face the frames are of, or -1: the face was not moved towards another, and is no photograph. */
  get row() {
    return Number(this.find(".way")?.value ?? 0) ? -1 : this.faces.slice(0, this.coarse.length).indexOf(this.start);
  }

  /** The face and the ends of its sliders, mixed: at once, until the network has answered. */
  drawCoarsely() {
    if (this.row < 0) return;
    const [face, ...ends] = this.coarse[this.row], mixed = Float32Array.from(face);
    this.sliders.forEach((slider, k) => {
      const end = ends[2 * k + (slider.value > 0 ? 1 : 0)], share = Math.abs(slider.value / slider.max);
      if (end && share) for (let i = 0; i < mixed.length; i++) mixed[i] += share * (end[i] - face[i]);
    });
    const { width, height } = this.canvas, sized = resize(mixed, this.frame, [height, width]);
    const values = new Float32Array(3 * width * height);
    for (let i = 0; i < values.length; i++) values[i] = sized[4 * Math.floor(i / 3) + (i % 3)] / 255;
    paint(this.canvas, values);
  }

  async take(file) {
    if (!file) return;
    const status = this.find(".status");
    try {
      this.start = await this.engine.ask(`${this.model.name} encoder`, await photograph(file, this.model.shape));
      status.textContent = "Your photograph, after encoder and decoder. It has not left this page.";
      this.draw();
    } catch {
      status.textContent = "This is not an image that the browser can read: choose a JPEG or PNG.";
    }
  }
}

const networks = {};
for (const model of models)
  for (const kind of ["generator", "encoder"]) if (model[kind]) networks[`${model.name} ${kind}`] = model[kind];
const engine = new Engine(networks);
for (const card of document.querySelectorAll(".play")) new Play(card, models[card.dataset.model], engine);

// Curves: a point under the pointer, or that of the slider that the arrow keys move.
for (const card of document.querySelectorAll("[data-values]")) {
  const steps = JSON.parse(card.dataset.steps), values = JSON.parse(card.dataset.values);
  const svg = card.querySelector("svg"), mark = card.querySelector(".mark"), slider = card.querySelector("input");
  const read = card.querySelector(".read"), last = read.textContent;
  const points = card.querySelector("polyline").getAttribute("points").split(" ").map((point) => point.split(","));
  const show = (index) => {
    const [x, y] = points[index], text = `step ${steps[index].toLocaleString("en")}: ${values[index]}`;
    mark.querySelector("line").setAttribute("transform", `translate(${x} 0)`);
    mark.querySelector("circle").setAttribute("transform", `translate(${x} ${y})`);
    mark.setAttribute("visibility", "visible");
    read.textContent = text;
    slider.value = index;
    slider.setAttribute("aria-valuetext", text);
  };
  const hide = () => { mark.setAttribute("visibility", "hidden"); read.textContent = last; };
  svg.onpointermove = svg.onpointerdown = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
    const apart = points.map(([x]) => Math.abs(x - at));
    show(apart.indexOf(Math.min(...apart)));
  };
  svg.onpointerleave = slider.onblur = hide;
  slider.oninput = slider.onfocus = () => show(Number(slider.value));
}

// Pictures at full size: Escape closes, arrow keys go on.
const dialog = document.querySelector("dialog"), figures = [...document.querySelectorAll("figure")];
let opened = 0;
function open(index) {
  opened = (index + figures.length) % figures.length;
  const figure = figures[opened], picture = figure.querySelector("img"), full = dialog.querySelector("img");
  full.src = picture.currentSrc;
  full.alt = picture.alt;
  dialog.querySelector("h3").textContent = figure.querySelector("h3").textContent;
  dialog.querySelector("p").textContent = figure.querySelector("p").textContent;
  if (!dialog.open) dialog.showModal();
}
figures.forEach((figure, index) => { figure.querySelector(".open").onclick = () => open(index); });
const [previous, following, close] = dialog.querySelectorAll("button");
previous.onclick = () => open(opened - 1);
following.onclick = () => open(opened + 1);
close.onclick = () => dialog.close();
dialog.onclose = () => figures[opened].querySelector(".open").focus();
dialog.onkeydown = ({ key }) => {
  if (key === "ArrowLeft") open(opened - 1);
  if (key === "ArrowRight") open(opened + 1);
};
