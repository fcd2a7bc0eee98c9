// WAV files, sample for sample: what the browser's own decoder would resample is read here as it is.

const text = (view, at) => String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + at, 4));

/** ArrayBuffer to `{rate, sound}` (a Float32Array a channel), or null if it is not a WAV file of PCM or float
 * samples. */
export function readWav(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength < 12 || text(view, 0) !== "RIFF" || text(view, 8) !== "WAVE") return null;
  let format = null;
  for (let at = 12; at + 8 <= buffer.byteLength; ) {
    const size = view.getUint32(at + 4, true);
    if (text(view, at) === "fmt ") {
      const tag = view.getUint16(at + 8, true);
      format = {
        kind: tag === 0xfffe ? view.getUint16(at + 32, true) : tag, // extensible: the tag begins its GUID
        channels: view.getUint16(at + 10, true),
        rate: view.getUint32(at + 12, true),
        bits: view.getUint16(at + 22, true),
      };
    } else if (text(view, at) === "data" && format) {
      return decode(view, at + 8, Math.min(size, buffer.byteLength - at - 8), format);
    }
    at += 8 + size + (size % 2);
  }
  return null;
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
  if (!read) return null;
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
