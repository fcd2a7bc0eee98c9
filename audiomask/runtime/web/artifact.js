// One file, one model: the metadata of an artifact, read from the bytes of its .onnx file.
//
// The document is what audiomask/runtime/artifact.py describes. ONNX Runtime Web shows no metadata, so the few
// fields of the protobuf file that lead to it are walked here; everything else is skipped unread.

import { MEMORY, Port } from "./ports.js";

const KEY = "audiomask";
const FORMAT = 2; // 1 says constant for control and mask for lost
const REQUIRED = ["name", "task", "sample_rate", "hop", "delay", "latency", "inputs", "outputs", "states"];

/** A model that cannot be read or run, or a control that it does not take. */
export class ArtifactError extends Error {
  name = "ArtifactError";
}

/** `bytes` (ArrayBuffer or Uint8Array) of an artifact to its document, checked: `inputs` and `outputs` are
 * ports, states get `array`, the typed array of one row. Beside them `streams` and `controls` (by name) of the
 * inputs, and `lost`, the stream that says which frames of the first one are. Throws `ArtifactError`. */
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
  const format = document.format ?? 1;
  if (!(format >= 1 && format <= FORMAT)) {
    refuse(`has artifact format ${format}, and this page reads up to ${FORMAT}; export it again`);
  }
  const missing = REQUIRED.filter((key) => document[key] === undefined);
  if (missing.length) refuse(`its metadata lacks ${missing.join(", ")}; export it again`);
  try {
    const { hop, delay, latency } = document;
    if (latency !== delay + hop) throw new Error(`latency ${latency} is not delay ${delay} + hop ${hop}`);
    const inputs = document.inputs.map((entry) => new Port(entry));
    const outputs = document.outputs.map((entry) => new Port(entry));
    const states = document.states.map((state) => ({ ...state, array: firstRow(state) }));
    if (!inputs[0]?.isStream) throw new Error("the first input is not a stream");
    for (const port of [...inputs, ...outputs]) if (port.isStream) port.perHop(hop);
    const streams = inputs.filter((port) => port.isStream);
    const controls = Object.fromEntries(inputs.filter((port) => !port.isStream).map((port) => [port.name, port]));
    const lost = streams.slice(1).find((port) => port.type === "lost") ?? null;
    const kind = ({ type, channels, rate }) => [type, channels, rate].join();
    const alike = [...outputs, streams[0]].every((port) => port.type === "pcm" && kind(port) === kind(streams[0]));
    return { ...document, inputs, outputs, states, streams, controls, lost, alike };
  } catch (error) {
    return refuse(`its metadata is inconsistent: ${error.message}; export it again`);
  }
}

/** The state of one stream at its start, as the typed array of its dtype. */
function firstRow({ name, dtype, shape, initial }) {
  const type = MEMORY[dtype];
  if (!type) throw new Error(`state ${name}: dtype '${dtype}' is not one of ${Object.keys(MEMORY).join(" ")}`);
  const size = shape.reduce((a, b) => a * b, 1);
  if (initial === null || initial === undefined) return new type(size);
  const values = Array.isArray(initial)
    ? type.from(initial.flat(Infinity), dtype === "int64" ? BigInt : Number)
    : new type(Uint8Array.from(atob(initial.base64), (c) => c.charCodeAt(0)).buffer);
  if (values.length !== size) throw new Error(`state ${name}: ${values.length} initial values for ${size} elements`);
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
