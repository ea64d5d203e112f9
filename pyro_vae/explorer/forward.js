// What a decoder does, step by step: the operations of pyro_vae.explorer.recording on flat arrays.
"use strict";

function sizeOf(shape) { return shape.reduce((a, b) => a * b, 1); }

function erf(x) {
  // a series where it converges fast, a continued fraction beyond: about 1e-15
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a < 2.5) {
    let term = a, sum = a;
    for (let n = 1; n < 80; n++) { term *= -a * a / n; sum += term / (2 * n + 1); }
    return Math.sign(x) * sum * 2 / Math.sqrt(Math.PI);
  }
  let f = 0;
  for (let n = 60; n > 0; n--) f = n / 2 / (a + f);
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + f));
}

const sigmoid = x => x < 0 ? Math.exp(x) / (1 + Math.exp(x)) : 1 / (1 + Math.exp(-x));

function nearest(x) {  // halves go to the even number, as torch's do
  const low = Math.floor(x), rest = x - low;
  return rest > .5 || (rest === .5 && low % 2 !== 0) ? low + 1 : low;
}

const ONE = {
  abs: Math.abs, asin: Math.asin, atan: Math.atan, ceil: Math.ceil, cos: Math.cos, erf, exp: Math.exp,
  expm1: Math.expm1, floor: Math.floor, log: Math.log, log1p: Math.log1p, neg: x => -x, reciprocal: x => 1 / x,
  relu: x => x > 0 ? x : 0, round: nearest, rsqrt: x => 1 / Math.sqrt(x), sigmoid, sign: Math.sign,
  silu: x => x * sigmoid(x), sin: Math.sin, sqrt: Math.sqrt, tan: Math.tan, tanh: Math.tanh,
  softplus: (x, s) => x * s.beta > s.threshold ? x : Math.log1p(Math.exp(x * s.beta)) / s.beta,
  gelu: x => x * (1 + erf(x / Math.SQRT2)) / 2,
  gelu_tanh: x => x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + .044715 * x * x * x))) / 2,
  elu: (x, s) => x > 0 ? s.scale * x : s.slope ? s.slope * x : s.scale * s.alpha * Math.expm1(s.inner * x),
};

const TWO = {
  add: (a, b) => a + b, atan2: Math.atan2, div: (a, b) => a / b, eq: (a, b) => +(a === b), ge: (a, b) => +(a >= b),
  gt: (a, b) => +(a > b), le: (a, b) => +(a <= b), lt: (a, b) => +(a < b), maximum: Math.max, minimum: Math.min,
  mul: (a, b) => a * b, ne: (a, b) => +(a !== b), pow: Math.pow,
};

const ROW = {  // of `width` numbers: one number
  sum: row => row.reduce((a, b) => a + b, 0),
  mean: row => row.reduce((a, b) => a + b, 0) / row.length,
  max: row => row.reduce((a, b) => Math.max(a, b), -Infinity),
  logsumexp: row => {
    const top = ROW.max(row);
    return Number.isFinite(top) ? top + Math.log(row.reduce((a, b) => a + Math.exp(b - top), 0)) : top;
  },
};

const ROWS = {  // of `width` numbers: as many
  softmax: row => { const all = ROW.logsumexp(row); return row.map(v => Math.exp(v - all)); },
  log_softmax: row => { const all = ROW.logsumexp(row); return row.map(v => v - all); },
  normalize: (row, step) => {
    const mean = ROW.mean(row), over = Math.sqrt(ROW.mean(row.map(v => (v - mean) ** 2)) + step.eps);
    return row.map(v => (v - mean) / over);
  },
};

const WHOLE = {
  take(step, ...of) {
    const out = new Float64Array(sizeOf(step.shape));
    if (step.places) {
      const all = of.length === 1 ? of[0] : of.reduce((joined, part) => joined.concat(Array.from(part)), []);
      step.places.forEach((place, i) => { out[i] = all[place]; });
      return out;
    }
    const joined = of.length === 1 ? of[0] : Float64Array.from(of.flatMap(part => Array.from(part)));
    const at = new Array(step.shape.length).fill(0);
    let place = step.offset;
    for (let i = 0; i < out.length; i++) {
      out[i] = joined[place];
      for (let d = at.length - 1; d >= 0; d--) {
        place += step.strides[d];
        if (++at[d] < step.shape[d]) break;
        place -= step.strides[d] * step.shape[d];
        at[d] = 0;
      }
    }
    return out;
  },
  where: (step, c, a, b) => c.map((yes, i) => yes ? a[i] : b[i]),
  mm(step, a, b) {
    const inner = step.inner, columns = step.shape[step.shape.length - 1];
    const out = new Float64Array(sizeOf(step.shape)), rows = out.length / columns;
    const perMatrix = b.length / (inner * columns), rowsOfOne = rows / perMatrix;
    for (let i = 0; i < rows; i++) {
      const from = Math.floor(i / rowsOfOne) * inner * columns;
      for (let k = 0; k < inner; k++) {
        const left = a[i * inner + k], start = from + k * columns, to = i * columns;
        if (left !== 0) for (let j = 0; j < columns; j++) out[to + j] += left * b[start + j];
      }
    }
    return out;
  },
  convolution(step, a, w) {
    const out = new Float64Array(sizeOf(step.shape));
    const [, planes, height, width] = step.transposed ? step.input : step.shape;  // the side that is walked
    const [, others, tall, wide] = step.transposed ? step.shape : step.input;
    const [high, broad] = step.kernel;
    for (let p = 0; p < planes; p++) for (let o = 0; o < others; o++)
      for (let u = 0; u < high; u++) for (let v = 0; v < broad; v++) {
        const weight = w[((p * others + o) * high + u) * broad + v];
        for (let i = 0; i < height; i++) {
          const y = i * step.stride[0] - step.padding[0] + u * step.dilation[0];
          if (y < 0 || y >= tall) continue;
          for (let j = 0; j < width; j++) {
            const x = j * step.stride[1] - step.padding[1] + v * step.dilation[1];
            if (x < 0 || x >= wide) continue;
            const walked = (p * height + i) * width + j, other = (o * tall + y) * wide + x;
            if (step.transposed) out[other] += weight * a[walked]; else out[walked] += weight * a[other];
          }
        }
      }
    return out;
  },
  rows(step, table, index) {
    const out = new Float64Array(sizeOf(step.shape));
    index.forEach((row, i) => out.set(table.subarray(row * step.width, (row + 1) * step.width), i * step.width));
    return out;
  },
};

function run(step, of) {
  if (step.op in ONE) return of[0].map(v => ONE[step.op](v, step));
  if (step.op in TWO) { const f = TWO[step.op], b = of[1]; return of[0].map((v, i) => f(v, b[i])); }
  if (step.op in WHOLE) return WHOLE[step.op](step, ...of);
  const width = step.width, out = new Float64Array(sizeOf(step.shape));
  for (let i = 0; i * width < of[0].length; i++) {
    const row = of[0].subarray(i * width, (i + 1) * width);
    if (step.op in ROW) out[i] = ROW[step.op](row); else out.set(ROWS[step.op](row, step), i * width);
  }
  return out;
}

// Returns a function from inputs by name (arrays of numbers) to the result, a Float64Array.
function compile(program, weights) {
  const constants = new Map();
  program.steps.forEach((step, i) => {
    if (step.op === "const") constants.set(i, Float64Array.from(weights.subarray(step.at, step.at + step.size)));
  });
  return inputs => {
    const values = [];
    program.steps.forEach((step, i) => {
      if (step.op === "const") values.push(constants.get(i));
      else if (step.op === "input") values.push(Float64Array.from(inputs[step.name]));
      else values.push(run(step, step.of.map(n => values[n])));
    });
    return values[program.result];
  };
}
