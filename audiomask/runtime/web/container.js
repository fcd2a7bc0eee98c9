// The bytes of an .amk, as audiomask/runtime/codes/container.py packs and finds them; docs/codec.md has the tables.
//
//   const packer = new Packer(header, probabilities);
//   const file = [packer.head(), packer.push(codes), packer.finish(samples)];    // Uint8Arrays
//   for (const { packet, end } of records(bytes, header)) ...
//
// Codes are rows, [streams x books][frames], below 0 where there is none. A header has the fields of the Python one,
// its hashes in hexadecimal.

import { Likely, Plain } from "./coders.js";
import { concat, join, part, zeros } from "./rows.js";

const MAGIC = 0x014b4d41; // AMK and the version
const LAST = 0x454b4d41; // AMKE
const MARK = 0x4bb5;
const [HEAD, PACKET, END, HASH] = [34, 14, 20, 8]; // bytes; the packet's with its sum
const [NUMBERS, MAX_PAYLOAD, ENTRIES, EVERY, COARSEST] = [2 ** 32, 8192, 4096, 16, 2 ** 15];
const FRAMES_S = 0.5; // of sound in a packet of a file
const BOUNDS = {
  clock: [4000, 768000], stride: [1, 65535], rate: [4000, 768000], channels: [1, 128], streams: [1, 128],
  books: [1, 255], levels: [2, 65536], frames: [1, 255], coder: [0, 1],
};
// What a file may say that it has lost: ten minutes, and ten times what its bytes could hold.
const [GAP_S, GAP_TIMES] = [600, 10];

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

/** Return the CRC-32 of bytes that come after those of another sum. */
export function crc32(bytes, sum = 0) {
  sum = ~sum;
  for (const byte of bytes) sum = TABLE[(sum ^ byte) & 255] ^ (sum >>> 8);
  return ~sum >>> 0;
}

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const unhex = (text) => Uint8Array.from(text.match(/../g) ?? [], (byte) => parseInt(byte, 16));
const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const bytesOf = (...numbers) => {
  const view = new DataView(new ArrayBuffer(numbers.reduce((sum, [, size]) => sum + size, 0)));
  let at = 0;
  for (const [value, size] of numbers) {
    if (size === 8) view.setBigUint64(at, BigInt(value), true);
    else view[`setUint${8 * size}`](at, value, true);
    at += size;
  }
  return new Uint8Array(view.buffer);
};
const withSum = (bytes) => concat([bytes, bytesOf([crc32(bytes), 4])]);

/** Return what packs and unpacks the codes of a header; without probabilities it may know sizes only. */
export const coderOf = ({ coder, levels }, probabilities) =>
  coder ? new Likely(levels, probabilities) : new Plain(levels);

/** Return a header that is checked. Throws an Error for values that nobody can decode. */
function checked(header) {
  for (const [key, [low, high]] of Object.entries(BOUNDS)) {
    const value = header[key];
    if (!(value >= low && value <= high)) throw new Error(`${key} ${value} is outside ${low} to ${high}`);
  }
  const { channels, streams, books, frames, name } = header;
  if (channels % streams) throw new Error(`${channels} channels are no whole number for each of ${streams} streams`);
  if (!/^(?:[^\p{C}\p{Z}]| )+$/u.test(name)) throw new Error("it has no name of a codec");
  const most = coderOf(header).most([streams, books, frames]);
  if (most > MAX_PAYLOAD) throw new Error(`${frames} frames may have ${most} bytes, and a packet holds ${MAX_PAYLOAD}`);
  return header;
}

/** Return the header of a file of about half a second a packet, by its other fields. Throws an Error as above. */
export function headerOf(facts) {
  for (let frames = Math.min(255, Math.max(1, Math.round((FRAMES_S * facts.clock) / facts.stride))); ; frames--) {
    try {
      return checked({ ...facts, frames });
    } catch (error) {
      if (frames === 1) throw error;
    }
  }
}

/** Return how many samples of the sound so many frames cover, rounded up. */
export const samplesOf = ({ stride, rate, clock }, frames) => Math.ceil((frames * stride * rate) / clock);
/** Return how many frames so many samples of the sound become. */
export const framesOf = ({ stride, rate, clock }, samples) => Math.ceil((samples * clock) / (rate * stride));

function headBytes(header) {
  const name = new TextEncoder().encode(header.name);
  const { coder, channels, streams, books, frames, levels, clock, stride, rate } = header;
  const numbers = [[MAGIC, 4], [coder, 1], [channels, 1], [streams, 1], [books, 1], [frames, 1], [levels - 1, 2]];
  const head = bytesOf(...numbers, [clock, 4], [stride, 2], [rate, 4]);
  return withSum(concat([head, unhex(header.hash), bytesOf([name.length, 1]), name, unhex(header.probabilities)]));
}

const seedOf = (head) => viewOf(head).getUint32(head.length - 4, true);

/** Return `[header, size]` of the bytes from a place on: null where there is none, more bytes than there are where it
 * is cut. */
export function parseHeader(bytes, at = 0) {
  const view = viewOf(bytes);
  if (bytes.length < at + HEAD - 4) return [null, HEAD];
  const coder = view.getUint8(at + 4);
  const more = at + HEAD - 4 + view.getUint8(at + 29);
  const stop = more + (coder === 1 ? HASH : 0);
  if (bytes.length < stop + 4) return [null, stop + 4 - at];
  const whole = view.getUint32(stop, true) === crc32(bytes.subarray(at, stop));
  if (view.getUint32(at, true) !== MAGIC || !whole) return [null, 0];
  const [channels, streams, books, frames] = bytes.subarray(at + 5);
  try {
    const header = {
      name: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes.subarray(at + HEAD - 4, more)),
      hash: hex(bytes.subarray(at + 21, at + 29)),
      clock: view.getUint32(at + 11, true), stride: view.getUint16(at + 15, true), rate: view.getUint32(at + 17, true),
      channels, streams, books, frames, levels: view.getUint16(at + 9, true) + 1, coder,
      probabilities: hex(bytes.subarray(more, stop)),
    };
    return [checked(header), stop + 4 - at];
  } catch {
    return [null, 0];
  }
}

function parseEnd(bytes, at) {
  const view = viewOf(bytes);
  if (bytes.length < at + END) return [null, END];
  const samples = Number(view.getBigUint64(at + 4, true));
  const packets = view.getUint32(at + 12, true);
  const [every, entries] = [view.getUint16(at + 16, true), view.getUint16(at + 18, true)];
  if (entries > ENTRIES || !every || samples >= 2 ** 62) return [null, 0];
  const copy = END + 8 * entries;
  const [header, size] = parseHeader(bytes, at + copy);
  if (!header) return [null, size && copy + size];
  const stop = at + copy + size + 8;
  if (bytes.length < stop) return [null, stop - at];
  if (view.getUint32(stop - 4, true) !== crc32(bytes.subarray(at, stop - 4))) return [null, 0];
  return [{ header, samples, packets, at, stop }, stop - at];
}

/** Return `[packet, size]` likewise: `{number, books, frames, payload, at, stop}`. */
function parsePacket(bytes, at, header, seed) {
  const view = viewOf(bytes);
  if (bytes.length < at + PACKET) return [null, PACKET];
  const [number, books, frames] = [view.getUint32(at + 2, true), bytes[at + 6], bytes[at + 7]];
  const length = view.getUint16(at + 8, true);
  const [shape, coder, size] = [[header.streams, books, frames], coderOf(header), PACKET + length];
  const fits = books >= 1 && books <= header.books && frames >= 1 && frames <= header.frames;
  if (!fits || length < coder.least(shape) || length > coder.most(shape)) return [null, 0];
  if (bytes.length < at + size) return [null, size];
  const payload = bytes.subarray(at + PACKET, at + size);
  if (view.getUint32(at + 10, true) !== crc32(payload, crc32(bytes.subarray(at, at + 10), seed))) return [null, 0];
  return [{ number, books, frames, payload, at, stop: at + size }, size];
}

/** Give the records of bytes, `{header}`, `{packet}` or `{end}`, and `{skipped}` bytes that are none. `header` of the
 * stream, if it is known beforehand. */
export function* records(bytes, header = null) {
  const view = viewOf(bytes);
  let seed = header && seedOf(headBytes(header));
  for (let at = 0; at < bytes.length; ) {
    const word = at + 4 <= bytes.length ? view.getUint32(at, true) : 0;
    let [found, size] = [null, 0];
    if (word === MAGIC) {
      [found, size] = parseHeader(bytes, at);
      found &&= { header: found };
    } else if (word === LAST) {
      [found, size] = parseEnd(bytes, at);
      const other = found && header && hex(headBytes(found.header)) !== hex(headBytes(header));
      found &&= other ? null : { end: found, header: found.header };
    } else if (header && at + 2 <= bytes.length && view.getUint16(at, true) === MARK) {
      [found, size] = parsePacket(bytes, at, header, seed);
      found &&= { packet: found };
    }
    if (found && !header) [header, seed] = [found.header, seedOf(headBytes(found.header))];
    yield found ?? { skipped: 1 };
    at += found ? size : 1;
  }
}

/** Return the codes of a packet, rows [streams x books], -1 for books that it lacks. Throws for a payload that is
 * none. */
export function codesOf({ books, frames, payload }, header, coder) {
  const found = coder.decode(payload, [header.streams, books, frames]);
  const none = () => new Float64Array(frames).fill(-1);
  const all = Array.from({ length: header.books });
  return found.flatMap((rows) => all.map((_, book) => (rows[book] ? Float64Array.from(rows[book]) : none())));
}

/** Return how many of the first books all frames of rows [streams x books] have. */
const booksIn = (rows, books) =>
  rows.reduce((found, row, n) => (row.some((code) => code < 0) ? Math.min(found, n % books) : found), books);

/** A maker of the bytes of one file, which gives them as soon as they are known; see container.py.
 *
 * Attributes: `packets` so far; `frames` in them; `size` of the header and them; `plain`, what they would have without
 * probabilities. */
export class Packer {
  #head; #seed; #coder; #plain; #waiting; #places = []; #every = EVERY; #weigh = []; #found = [];

  constructor(header, probabilities = null) {
    this.header = header;
    this.#head = headBytes(header);
    this.#seed = seedOf(this.#head);
    this.#coder = coderOf(header, probabilities);
    this.#plain = new Plain(header.levels);
    this.packets = this.frames = this.size = this.plain = 0;
    this.#begin();
  }

  /** Return the header, which comes first. */
  head() {
    this.size += this.#head.length;
    return this.#head;
  }

  /** Take codes and return the packets that they complete. */
  push(codes) {
    const { books, frames } = this.header;
    const made = [new Uint8Array(0)];
    for (let t = 0; t < codes[0].length; t++) {
      const frame = part(codes, t, t + 1);
      const there = booksIn(frame, books);
      this.#weigh.forEach((weigh, n) => {
        this.#found[n].push(weigh(frame.slice(n * books, n * books + there).map(([code]) => code)));
      });
      this.#waiting = join([this.#waiting, frame]);
      if (this.#waiting[0].length === frames) made.push(this.#packet());
    }
    return concat(made);
  }

  /** Return the rest of the file, whose sound had so many samples. */
  finish(samples) {
    const rest = this.#waiting[0].length ? this.#packet() : new Uint8Array(0);
    const numbers = [[LAST, 4], [samples, 8], [this.packets, 4], [this.#every, 2], [this.#places.length, 2]];
    const data = concat([bytesOf(...numbers, ...this.#places.map((place) => [place, 8])), this.#head]);
    return concat([rest, withSum(concat([data, bytesOf([data.length + 8, 4])]))]);
  }

  #begin() {
    const { streams, books } = this.header;
    this.#waiting = zeros(streams * books, 0, Float64Array);
    this.#weigh = this.#coder.weighing ? Array.from({ length: streams }, () => this.#coder.weighing()) : [];
    this.#found = this.#weigh.map(() => []);
  }

  #packet() {
    const { streams, books: all } = this.header;
    const frames = this.#waiting[0].length;
    const books = booksIn(this.#waiting, all);
    if (!books) throw new Error("frames without a code cannot be packed");
    const shape = [streams, books, frames];
    const codes = Array.from({ length: streams }, (_, n) => this.#waiting.slice(n * all, n * all + books));
    const found = this.#found.flat();
    const weighed = found.length && found.every((frame) => frame.length === books); // else by books that are not sent
    const payload = weighed ? this.#coder.write(found.flat(), codes, shape) : this.#coder.encode(codes, shape);
    if (this.packets && this.packets % this.#every === 0) this.#enter();
    const head = bytesOf([MARK, 2], [this.packets % NUMBERS, 4], [books, 1], [frames, 1], [payload.length, 2]);
    const data = concat([head, bytesOf([crc32(payload, crc32(head, this.#seed)), 4]), payload]);
    this.packets++;
    this.frames += frames;
    this.size += data.length;
    this.plain += PACKET + this.#plain.most(shape);
    this.#begin();
    return data;
  }

  /** Enter the next packet into the index, which becomes coarser when it is full. */
  #enter() {
    if (this.#places.length === ENTRIES) {
      if (this.#every === COARSEST) return;
      this.#places = this.#places.filter((_, n) => n % 2);
      this.#every *= 2;
    }
    if (this.packets % this.#every === 0) this.#places.push(this.size);
  }
}

/** A file of codes, of which all bytes are there: `header`, `frames`, `samples` of the sound, and `note`, words on what
 * was wrong. Throws an Error if there is no sound in it. */
export class Amk {
  #packets = new Map();

  constructor(bytes) {
    const header = parseHeader(bytes)[0] ?? [...records(bytes)].find((record) => record.header)?.header;
    if (!header) throw new Error("it is no .amk, or its header is damaged, and so is its copy");
    this.header = header;
    let [end, skipped, reached] = [null, 0, 0];
    const packets = [];
    for (const record of records(bytes, header)) {
      end ??= record.end ?? null;
      skipped += record.skipped ?? 0;
      if (record.packet) packets.push(record.packet);
    }
    const least = PACKET + coderOf(header).least([header.streams, 1, header.frames]);
    const lost = Math.floor((GAP_S * header.clock) / header.stride);
    const bound = lost + GAP_TIMES * header.frames * Math.ceil(bytes.length / least);
    const whole = end && framesOf(header, end.samples) <= bound;
    const most = whole ? framesOf(header, end.samples) : bound;
    for (const packet of packets) {
      const after = packet.number * header.frames + packet.frames;
      if (after > most || this.#packets.has(packet.number)) continue;
      this.#packets.set(packet.number, packet);
      reached = Math.max(reached, after);
    }
    this.frames = whole ? most : reached;
    this.samples = whole ? end.samples : samplesOf(header, reached);
    if (!reached || !this.samples) throw new Error("there is no whole packet in it");
    const notes = [whole ? "" : "its end is missing", skipped ? `${skipped} bytes are no packet` : ""];
    this.note = notes.filter(Boolean).join(", ");
  }

  /** Give all frames in their order: `{codes, frames}`, codes null where they are missing. */
  *pieces(coder) {
    const { header } = this;
    for (let number = 0; number * header.frames < this.frames; number++) {
      const size = Math.min(header.frames, this.frames - number * header.frames);
      const packet = this.#packets.get(number);
      let codes = null;
      try {
        codes = packet && codesOf(packet, header, coder);
      } catch {
        // Its sum is right and its codes are none: nobody's encoder wrote it.
      }
      if (codes) yield { codes, frames: packet.frames };
      const rest = size - (codes ? packet.frames : 0);
      if (rest > 0) yield { codes: null, frames: rest };
    }
  }
}
