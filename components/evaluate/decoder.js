// A trained network in plain JavaScript: a list of steps, each of which makes one array of earlier ones.
//
// components/evaluate/interactive.py writes the list. An array is one image, [height, width, channels] in this
// order, or a vector. The page runs this file itself, and makes a worker of it, so that it never freezes.
"use strict";

/** Base64 of float16 numbers, little-endian, as a Float32Array. */
function unpack(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return Float32Array.from(new Uint16Array(bytes.buffer), (half) => {
    const exponent = (half >> 10) & 31, fraction = half & 1023;
    const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
    return half >> 15 ? -size : size;
  });
}

/** A network that can be run: its weights unpacked, matrices as `multiply` wants them. */
function load({ steps, weights }) {
  const numbers = unpack(weights);
  let start = 0;
  return steps.map((step) => {
    const own = step.sizes.map((size) => numbers.subarray(start, (start += size)));
    if (step.matrix) own[0] = inPanels(own[0], ...step.matrix);
    return { ...step, weights: own };
  });
}

/** What a network makes of its input, a Float32Array. */
function run(network, input) {
  const made = [];
  for (const step of network) {
    const taken = step.from.map((index) => made[index]);
    made.push(step.kind === "input" ? input : KINDS[step.kind](step, ...taken));
  }
  return made.at(-1);
}

/** A matrix [inner, columns] as panels of four columns, in which `multiply` walks straight on. */
function inPanels(matrix, inner, columns) {
  const panels = new Float32Array(4 * Math.ceil(columns / 4) * inner);
  for (let k = 0; k < inner; k++)
    for (let j = 0; j < columns; j++)
      panels[((j >> 2) * inner + k) * 4 + (j & 3)] = matrix[k * columns + j];
  return panels;
}

/** The product of a matrix [rows, inner] and panels, four rows by four columns at a time, in registers. */
function multiply(a, panels, rows, inner, columns, product = new Float32Array(rows * columns), to = 0) {
  const put = (row, column, sums) => {
    for (let j = 0; j < 4 && column + j < columns; j++) product[to + row * columns + column + j] = sums[j];
  };
  const last = rows - 1;
  for (let column = 0; column < columns; column += 4)
    for (let row = 0; row < rows; row += 4) {
      const row1 = Math.min(row + 1, last), row2 = Math.min(row + 2, last), row3 = Math.min(row + 3, last);
      let a00 = 0, a01 = 0, a02 = 0, a03 = 0, a10 = 0, a11 = 0, a12 = 0, a13 = 0;
      let a20 = 0, a21 = 0, a22 = 0, a23 = 0, a30 = 0, a31 = 0, a32 = 0, a33 = 0;
      let p = column * inner, q = row * inner, q1 = row1 * inner, q2 = row2 * inner, q3 = row3 * inner;
      for (const end = q + inner; q < end; p += 4) {
        const b0 = panels[p], b1 = panels[p + 1], b2 = panels[p + 2], b3 = panels[p + 3];
        const x0 = a[q++], x1 = a[q1++], x2 = a[q2++], x3 = a[q3++];
        a00 += x0 * b0; a01 += x0 * b1; a02 += x0 * b2; a03 += x0 * b3;
        a10 += x1 * b0; a11 += x1 * b1; a12 += x1 * b2; a13 += x1 * b3;
        a20 += x2 * b0; a21 += x2 * b1; a22 += x2 * b2; a23 += x2 * b3;
        a30 += x3 * b0; a31 += x3 * b1; a32 += x3 * b2; a33 += x3 * b3;
      }
      put(row, column, [a00, a01, a02, a03]);
      put(row1, column, [a10, a11, a12, a13]);
      put(row2, column, [a20, a21, a22, a23]);
      put(row3, column, [a30, a31, a32, a33]);
    }
  return product;
}

function addBias(x, bias) {
  for (let i = 0; i < x.length; i += bias.length) for (let j = 0; j < bias.length; j++) x[i + j] += bias[j];
  return x;
}

/** As the array's own `map`, which is several times as slow. */
function map(x, change) {
  const made = new Float32Array(x.length);
  for (let i = 0; i < x.length; i++) made[i] = change(x[i], i);
  return made;
}

const ACTIVATIONS = {
  relu: ({ slope, most }) => (x) => (x < 0 ? slope * x : x < most ? x : most),
  sigmoid: () => (x) => 1 / (1 + Math.exp(-x)),
  tanh: () => Math.tanh,
  silu: () => (x) => x / (1 + Math.exp(-x)),
  clip: ({ least, most }) => (x) => (x < least ? least : x < most ? x : most),
};

const KINDS = {
  dense: ({ weights: [panels, bias], matrix: [inner, columns] }, x) =>
    addBias(multiply(x, panels, x.length / inner, inner, columns), bias),

  // Every window as a row of a matrix (im2col), some rows of the image at a time.
  convolution({ weights: [panels, bias], matrix: [inner, columns], taken, given, kernel, stride, pad }, x) {
    const [height, width, channels] = taken, [rows, across] = given;
    const product = new Float32Array(rows * across * columns);
    const band = Math.max(1, Math.floor(2 ** 18 / (across * inner)));
    for (let top = 0; top < rows; top += band) {
      const count = Math.min(band, rows - top), windows = new Float32Array(count * across * inner);
      for (let i = 0, to = 0; i < count * across; i++)
        for (let r = 0; r < kernel[0]; r++)
          for (let c = 0; c < kernel[1]; c++, to += channels) {
            const y = (top + Math.floor(i / across)) * stride[0] + r - pad[0];
            const at = (i % across) * stride[1] + c - pad[1];
            if (y < 0 || y >= height || at < 0 || at >= width) continue;
            const from = (y * width + at) * channels;
            for (let k = 0; k < channels; k++) windows[to + k] = x[from + k];
          }
      multiply(windows, panels, count * across, inner, columns, product, top * across * columns);
    }
    return addBias(product, bias);
  },

  // Every pixel times the whole kernel; the products are summed where they fall.
  transposed({ weights: [panels, bias], matrix: [inner, columns], taken, given, kernel, stride, pad }, x) {
    const [height, width] = taken, [rows, across, channels] = given;
    const products = multiply(x, panels, height * width, inner, columns);
    const sums = new Float32Array(rows * across * channels);
    for (let i = 0, from = 0; i < height * width; i++)
      for (let r = 0; r < kernel[0]; r++)
        for (let c = 0; c < kernel[1]; c++, from += channels) {
          const y = Math.floor(i / width) * stride[0] + r - pad[0], at = (i % width) * stride[1] + c - pad[1];
          if (y < 0 || y >= rows || at < 0 || at >= across) continue;
          const to = (y * across + at) * channels;
          for (let k = 0; k < channels; k++) sums[to + k] += products[from + k];
        }
    return addBias(sums, bias);
  },

  // Over the channels of each pixel, or (`whole`) over all pixels; each group of channels by itself.
  normalization({ weights: [scale, shift], channels, groups, whole, centre, epsilon }, x) {
    const made = new Float32Array(x.length), size = channels / groups;
    const reach = whole ? x.length : channels;
    for (let pixel = 0; pixel < x.length; pixel += reach)
      for (let first = 0; first < channels; first += size) {
        let sum = 0, squares = 0, mean = 0;
        const each = (visit) => {
          for (let i = pixel; i < pixel + reach; i += channels)
            for (let k = first; k < first + size; k++) visit(i + k, k);
        };
        const count = (reach / channels) * size;
        if (centre) each((i) => { sum += x[i]; });
        mean = sum / count;
        each((i) => { squares += (x[i] - mean) ** 2; });
        const factor = 1 / Math.sqrt(squares / count + epsilon);
        each((i, k) => { made[i] = (x[i] - mean) * factor * scale[k] + shift[k]; });
      }
    return made;
  },

  activation: (step, x) => map(x, ACTIVATIONS[step.name](step)),
  affine: ({ weights: [scale, shift] }, x) => map(x, (v, i) => v * scale[i % scale.length] + shift[i % scale.length]),
  add: (step, ...all) => all.reduce((x, y) => map(x, (value, i) => value + y[i])),
  multiply: (step, ...all) => all.reduce((x, y) => map(x, (value, i) => value * y[i])),

  concatenate({ widths }, ...all) {
    const total = widths.reduce((a, b) => a + b), pixels = all[0].length / widths[0];
    const made = new Float32Array(pixels * total);
    for (let pixel = 0; pixel < pixels; pixel++)
      for (let which = 0, to = pixel * total; which < all.length; to += widths[which++])
        made.set(all[which].subarray(pixel * widths[which], (pixel + 1) * widths[which]), to);
    return made;
  },

  // Axis i of what is made is axis order[i] of x.
  permute({ shape, order }, x) {
    const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * b, 1));
    const made = new Float32Array(x.length);
    for (let i = 0; i < x.length; i++) {
      let rest = i, from = 0;
      for (let axis = order.length - 1; axis >= 0; axis--) {
        from += (rest % shape[order[axis]]) * strides[order[axis]];
        rest = Math.floor(rest / shape[order[axis]]);
      }
      made[i] = x[from];
    }
    return made;
  },

  resize: ({ taken, given, bilinear }, x) => resize(x, taken, given, bilinear),
};

/** An image of another size: the nearest pixels, or bilinear with half-pixel centres and no antialiasing. */
function resize(x, [height, width, channels], [rows, across], bilinear = true) {
  const made = new Float32Array(rows * across * channels);
  const places = (from, to) => Array.from({ length: to }, (_, i) => {
    const at = Math.max(0, ((i + 0.5) * from) / to - 0.5), low = Math.floor(bilinear ? at : at + 0.5);
    return [low, Math.min(low + 1, from - 1), bilinear ? at - low : 0];
  });
  const columns = places(width, across);
  places(height, rows).forEach(([above, below, down], row) =>
    columns.forEach(([left, right, aside], column) => {
      for (let k = 0; k < channels; k++) {
        const value = (y, at) => x[(y * width + at) * channels + k];
        const upper = value(above, left) * (1 - aside) + value(above, right) * aside;
        const lower = value(below, left) * (1 - aside) + value(below, right) * aside;
        made[(row * across + column) * channels + k] = upper * (1 - down) + lower * down;
      }
    }));
  return made;
}

// In a worker: it is told the networks once, and then answers each input.
if (typeof document === "undefined") {
  const networks = {};
  onmessage = ({ data: { name, network, input } }) => {
    if (network) networks[name] = load(network);
    else postMessage(run(networks[name], input));
  };
}
