// WAV files, sample for sample: what the browser's own decoder would resample is read here as it is.

const text = (view, at) => String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + at, 4));

/** ArrayBuffer to `{rate, sound, speakers, note}` (a Float32Array a channel; the bits of `seats.js`, 0 for none; words on
 * what the header says wrongly, or ""), or null if it is not a WAV file of PCM or float samples. Headers are believed as little as by audio/headers.py. */
export function readWav(buffer) {
  const view = new DataView(buffer);
  const end = buffer.byteLength;
  if (end < 12 || !["RIFF", "RF64", "BW64"].includes(text(view, 0)) || text(view, 8) !== "WAVE") return null;
  let format = null;
  let wide = null; // the size of the samples where it has 64 bits
  for (let at = 12; at + 8 <= end; ) {
    const size = view.getUint32(at + 4, true);
    const name = text(view, at);
    if (name === "ds64" && at + 24 <= end) wide = Number(view.getBigUint64(at + 16, true));
    if (name === "fmt " && at + 24 <= end) {
      const tag = view.getUint16(at + 8, true);
      format = {
        kind: tag === 0xfffe && at + 34 <= end ? view.getUint16(at + 32, true) : tag, // it begins a GUID
        channels: view.getUint16(at + 10, true),
        rate: view.getUint32(at + 12, true),
        bits: view.getUint16(at + 22, true),
        speakers: tag === 0xfffe && at + 32 <= end ? view.getUint32(at + 28, true) % 2 ** 18 : 0,
      };
    } else if (name === "data" && format) {
      const promised = size === 0xffffffff && wide !== null ? wide : size;
      const { used, note } = sized(view, at + 8, promised, (format.channels * format.bits) / 8, wide === null);
      const found = decode(view, at + 8, used, format);
      return found && { ...found, speakers: format.speakers, note };
    }
    at += 8 + size + (size % 2);
  }
  return null;
}

/** How many bytes of samples are used of those from `start` on, and what is to be said about it. */
function sized(view, start, promised, unit, narrow) {
  const there = view.byteLength - start;
  const after = start + promised + (promised % 2);
  const open = !promised || (narrow && promised >= 0x7fff0000); // of a writer that could not go back
  if (promised > there && !open) {
    return { used: there, note: `its header promises ${promised} bytes of sound, ${there} are there` };
  }
  const followed = after + 8 <= view.byteLength && /^[ -~]{4}$/.test(text(view, after))
    && view.getUint32(after + 4, true) <= view.byteLength - after - 8;
  if (followed || there - promised < unit) return { used: Math.min(promised, there), note: "" };
  const note = open ? "" : `its header says ${promised} bytes of sound, ${there} are there; all were used`;
  return { used: there, note };
}

function decode(view, start, size, { kind, channels, rate, bits }) {
  const width = bits / 8;
  const readers = {
    "1/8": (at) => (view.getUint8(at) - 128) / 2 ** 7,
    "1/16": (at) => view.getInt16(at, true) / 2 ** 15,
    "1/24": (at) => ((view.getInt8(at + 2) << 16) | view.getUint16(at, true)) / 2 ** 23,
    "1/32": (at) => view.getInt32(at, true) / 2 ** 31,
    "3/32": (at) => view.getFloat32(at, true),
    "3/64": (at) => view.getFloat64(at, true),
  };
  const read = readers[`${kind}/${bits}`];
  if (!read || !channels) return null;
  const length = Math.floor(size / width / channels);
  const sound = Array.from({ length: channels }, (_, c) => {
    const row = new Float32Array(length);
    for (let n = 0; n < length; n++) row[n] = read(start + (n * channels + c) * width);
    return row;
  });
  return { rate, sound };
}

/** A sound as a WAV file of 32-bit float samples, which neither clips nor rounds: a Blob. */
export function writeWav(sound, rate) {
  const channels = sound.length;
  const bytes = sound[0].length * channels * 4;
  const view = new DataView(new ArrayBuffer(44 + bytes));
  const word = (at, letters) => [...letters].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  word(0, "RIFF");
  view.setUint32(4, 36 + bytes, true);
  word(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 3, true);
  view.setUint16(22, channels, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * channels * 4, true);
  view.setUint16(32, channels * 4, true);
  view.setUint16(34, 32, true);
  word(36, "data");
  view.setUint32(40, bytes, true);
  sound.forEach((row, c) => row.forEach((value, n) => view.setFloat32(44 + (n * channels + c) * 4, value, true)));
  return new Blob([view], { type: "audio/wav" });
}
