// One file, one model: the metadata of an artifact, read from the bytes of its .onnx file.
//
// The document is what audiomask/runtime/artifact.py describes. ONNX Runtime Web shows no metadata, so the few
// fields of the protobuf file that lead to it are walked here; everything else is skipped unread.

const KEY = "audiomask";
const FORMAT = 1;
const REQUIRED = ["name", "task", "sample_rate", "hop", "delay", "latency", "inputs", "outputs", "states"];
const ARRAYS = { float32: Float32Array, int64: BigInt64Array };

/** A model that cannot be read or run, or a control that it does not take. */
export class ArtifactError extends Error {
  name = "ArtifactError";
}

/** `bytes` (ArrayBuffer or Uint8Array) of an artifact to its document, checked: states get `array`, the typed
 * array of one row, and ports their defaults. Throws `ArtifactError`. */
export function readArtifact(bytes) {
  const data = bytes instanceof Uint8Array ? bytes : new Uint8Array(bytes);
  let text;
  try {
    text = metadata(data);
  } catch (error) {
    throw new ArtifactError(`this is no ONNX model (${error.message}); copy or export it again`);
  }
  if (text === undefined) {
    throw new ArtifactError(`the model has no '${KEY}' metadata; write it with: audiomask export`);
  }
  return checkDocument(JSON.parse(text));
}

/** The checks of `readArtifact` on a document that came another way. */
export function checkDocument(document) {
  const refuse = (what) => {
    throw new ArtifactError(`${document.name ?? "the model"}: ${what}`);
  };
  if ((document.format ?? FORMAT) !== FORMAT) {
    refuse(`has artifact format ${document.format}, and this page reads ${FORMAT}; export it again`);
  }
  const missing = REQUIRED.filter((key) => document[key] === undefined);
  if (missing.length) refuse(`its metadata lacks ${missing.join(", ")}; export it again`);
  if (document.latency !== document.delay + document.hop) {
    refuse(`latency ${document.latency} is not delay ${document.delay} + hop ${document.hop}`);
  }
  const port = (entry) => ({
    rate: "1", channels: 1, reference: 0, default: null, minimum: null, maximum: null, unit: "", doc: "",
    ...entry,
  });
  const inputs = document.inputs.map(port);
  const outputs = document.outputs.map(port);
  const streams = inputs.filter((p) => p.kind === "stream");
  const audio = streams[0];
  const sound = outputs.find((p) => (p.type ?? "pcm") === "pcm" && p.kind === "stream" && String(p.rate) === "1");
  if (streams.length !== 1 || (audio.type ?? "pcm") !== "pcm" || !sound) {
    refuse("is no audio-to-audio model; a session cannot play it");
  }
  if (sound.channels !== 1 && sound.channels !== audio.channels) {
    refuse(`makes ${sound.channels} channels of ${audio.channels}`);
  }
  const states = document.states.map((state) => ({ ...state, array: firstRow(state, refuse) }));
  const constants = inputs.filter((p) => p.kind === "constant");
  return { ...document, inputs, outputs, states, constants, audio, sound };
}

/** The state of one stream at its start, as the typed array of its dtype. */
function firstRow({ name, dtype, shape, initial }, refuse) {
  const type = ARRAYS[dtype];
  if (!type) refuse(`state ${name}: dtype ${dtype} is not one of ${Object.keys(ARRAYS).join(" ")}`);
  const size = shape.reduce((a, b) => a * b, 1);
  if (initial === null || initial === undefined) return new type(size);
  const values = Array.isArray(initial)
    ? type.from(initial.flat(Infinity), dtype === "int64" ? BigInt : Number)
    : new type(Uint8Array.from(atob(initial.base64), (c) => c.charCodeAt(0)).buffer);
  if (values.length !== size) refuse(`state ${name}: ${values.length} initial values for ${size} elements`);
  return values;
}

/** The value of our key among ModelProto.metadata_props (field 14: pairs of strings), or undefined. */
function metadata(data) {
  let found;
  fields(data, (field, value) => {
    if (field !== 14) return;
    const pair = [];
    fields(value, (part, text) => {
      pair[part] = new TextDecoder().decode(text);
    });
    if (pair[1] === KEY) found = pair[2];
  });
  return found;
}

/** Calls `visit(field, bytes)` for each length-delimited field of a protobuf message. */
function fields(data, visit) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      if (at >= data.length || scale > 2 ** 63) throw new Error("a number is cut off");
      const byte = data[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < data.length) {
    const key = varint();
    const wire = key % 8;
    if (wire === 0) varint();
    else if (wire === 1) at += 8;
    else if (wire === 5) at += 4;
    else if (wire === 2) {
      const length = varint();
      if (at + length > data.length) throw new Error("a field is cut off");
      visit((key - wire) / 8, data.subarray(at, at + length));
      at += length;
    } else throw new Error(`wire type ${wire} at byte ${at}`);
  }
}
