// The discrete Fourier transform of a power of two, radix 2, in place.

export class Fourier {
  constructor(size) {
    this.size = size;
    this.re = new Float64Array(size);
    this.im = new Float64Array(size);
    this.cos = Float64Array.from({ length: size / 2 }, (_, n) => Math.cos((2 * Math.PI * n) / size));
    this.sin = Float64Array.from({ length: size / 2 }, (_, n) => -Math.sin((2 * Math.PI * n) / size));
    const bits = Math.log2(size);
    this.order = Uint32Array.from({ length: size }, (_, n) => {
      let turned = 0;
      for (let b = 0; b < bits; b++) turned |= ((n >> b) & 1) << (bits - 1 - b);
      return turned;
    });
  }

  /** Put the spectrum of what `real(n)` and `imaginary(n)` give, n from 0 to size - 1, into `re` and `im`. */
  run(real, imaginary = () => 0) {
    const { size, re, im, cos, sin, order } = this;
    for (let n = 0; n < size; n++) {
      re[order[n]] = real(n);
      im[order[n]] = imaginary(n);
    }
    for (let half = 1; half < size; half *= 2) {
      const step = size / (2 * half);
      for (let start = 0; start < size; start += 2 * half) {
        for (let k = 0; k < half; k++) {
          const a = start + k;
          const b = a + half;
          const c = cos[k * step];
          const s = sin[k * step];
          const x = re[b] * c - im[b] * s;
          const y = re[b] * s + im[b] * c;
          re[b] = re[a] - x;
          im[b] = im[a] - y;
          re[a] += x;
          im[a] += y;
        }
      }
    }
  }
}
