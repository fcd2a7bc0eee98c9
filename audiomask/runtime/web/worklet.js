// The audio thread's part: samples into one ring, samples out of another, nothing else.
//
// The sample that is played when input n arrives is output n - lag, by position and not by what happens to be
// there. So the lag cannot drift: what comes too late is silence and is counted, and what comes after that is
// in its place again. The dry sound is read from the input ring at the same position, so that A and B are
// aligned.
//
// Without shared memory both rings are private and samples travel in messages over `link`.

import { Ring } from "./ring.js";

const FADE_S = 0.01; // between A and B
const REPORT_S = 0.1;

class Pump extends AudioWorkletProcessor {
  #input; #output; #link; #lag; #blocks; #dry; #wet;
  #total = 0; #share = 1; #target = 1; #underruns = 0; #missed = 0; #silent = false; #reported = 0; #begun = false;

  constructor({ processorOptions: { channels, outputs, capacity, input, output, lag } }) {
    super();
    this.#input = new Ring(input ?? Ring.buffer(channels, capacity, false), channels);
    this.#output = new Ring(output ?? Ring.buffer(outputs, capacity, false), outputs);
    this.#lag = lag;
    this.#blocks = Array.from({ length: channels }, () => new Float32Array(128));
    this.#dry = new Float32Array(128);
    this.#wet = new Float32Array(128);
    this.port.onmessage = ({ data }) => {
      this.#begun = true; // not before: the first samples need the link
      if (data.link) {
        this.#link = data.link;
        this.#link.onmessage = (message) => this.#output.write(message.data);
      }
      if (data.lag !== undefined) this.#lag = Math.min(data.lag, this.#input.capacity / 2);
      if (data.enhanced !== undefined) this.#target = data.enhanced ? 1 : 0;
      if (data.stop) this.#input.close();
    };
  }

  #report() {
    this.port.postMessage({ underruns: this.#underruns, missed: this.#missed, played: this.#total });
    this.#reported = this.#total;
  }

  process([source], [sink]) {
    if (this.#input.closed) return false;
    if (!this.#begun) return true;
    const count = sink[0].length;
    if (this.#dry.length < count) [this.#dry, this.#wet] = [new Float32Array(count), new Float32Array(count)];
    const blocks = this.#blocks.map((block, c) => {
      const fitting = block.length === count ? block : (this.#blocks[c] = new Float32Array(count));
      if (source[c]) fitting.set(source[c]);
      else fitting.fill(0); // nothing is connected, or the source has ended
      return fitting;
    });
    this.#input.write(blocks);
    this.#link?.postMessage(blocks);

    const at = (this.#input.written - count - this.#lag) | 0;
    const begun = Math.min(count, Math.max(0, this.#total + count - this.#lag)); // the rest lies before the start
    const there = Math.min(count, Math.max(0, (this.#output.written - at) | 0));
    this.#total += count;
    this.#count(begun - Math.max(0, there - (count - begun)));
    for (let c = 0; c < sink.length; c++) {
      this.#wet.fill(0);
      this.#dry.fill(0);
      if (begun && there) this.#output.read(at, Math.min(c, this.#output.channels - 1), this.#wet, there);
      if (begun) this.#input.read(at, Math.min(c, this.#blocks.length - 1), this.#dry, count);
      this.#mix(sink[c], count, count - begun);
    }
    this.#share = this.#faded(count);
    if (this.#total - this.#reported > REPORT_S * sampleRate) this.#report();
    return true;
  }


  #count(missing) {
    if (missing > 0) {
      this.#missed += missing;
      if (!this.#silent) this.#underruns++;
    }
    this.#silent = missing > 0;
  }

  #faded(after) {
    const step = after / (FADE_S * sampleRate);
    return this.#share + Math.max(-step, Math.min(step, this.#target - this.#share));
  }

  #mix(row, count, before) {
    for (let n = 0; n < count; n++) {
      const share = this.#faded(n);
      row[n] = n < before ? 0 : share * this.#wet[n] + (1 - share) * this.#dry[n];
    }
  }
}

registerProcessor("audiomask-pump", Pump);
