// Plays a sound and its enhanced twin in step, so that one can switch between them at any moment.

const FADE_S = 0.01;

export class Playback {
  #context; #sources = []; #gains = []; #buffers = []; #offset = 0; #started = null; #enhanced = true;

  constructor(context, { onended }) {
    this.#context = context;
    this.onended = onended;
  }

  get playing() {
    return this.#started !== null;
  }

  get duration() {
    return this.#buffers[0]?.duration ?? 0;
  }

  /** Seconds from the start. */
  get position() {
    if (!this.playing) return this.#offset;
    return Math.min(this.duration, this.#offset + Math.max(0, this.#context.currentTime - this.#started));
  }

  /** Take two sounds `{rows, rate}`; stays where it was in a sound of the same length. */
  load(before, after) {
    const resume = this.playing;
    const at = Math.abs(before.rows[0].length / before.rate - this.duration) < 1e-3 ? this.position : 0;
    this.pause();
    this.#buffers = [before, after].map(({ rows: sound, rate }) => {
      const buffer = new AudioBuffer({ length: Math.max(1, sound[0].length), numberOfChannels: sound.length, sampleRate: rate });
      sound.forEach((row, c) => buffer.copyToChannel(row, c));
      return buffer;
    });
    this.#offset = at;
    if (resume) this.play();
  }

  play() {
    if (!this.duration || this.playing) return;
    if (this.#offset >= this.duration - 0.01) this.#offset = 0;
    this.#context.resume(); // plays at once, or as soon as it may
    const when = this.#context.currentTime + 0.02;
    this.#gains = this.#buffers.map((_, i) => {
      const gain = new GainNode(this.#context, { gain: i === Number(this.#enhanced) ? 1 : 0 });
      gain.connect(this.#context.destination);
      return gain;
    });
    this.#sources = this.#buffers.map((buffer, i) => {
      const source = new AudioBufferSourceNode(this.#context, { buffer });
      source.connect(this.#gains[i]);
      source.start(when, this.#offset);
      return source;
    });
    this.#started = when;
    this.#sources[0].onended = () => {
      this.#offset = this.duration;
      this.#release();
      this.onended();
    };
  }

  pause() {
    if (!this.playing) return;
    this.#offset = this.position;
    this.#sources[0].onended = null;
    this.#release();
  }

  #release() {
    this.#sources.forEach((source) => source.stop());
    this.#gains.forEach((gain) => gain.disconnect());
    this.#started = null;
  }

  seek(seconds) {
    const resume = this.playing;
    this.pause();
    this.#offset = seconds;
    if (resume) this.play();
  }

  setEnhanced(enhanced) {
    this.#enhanced = enhanced;
    this.#gains.forEach((gain, i) => {
      gain.gain.setTargetAtTime(i === Number(enhanced) ? 1 : 0, this.#context.currentTime, FADE_S / 3);
    });
  }
}
