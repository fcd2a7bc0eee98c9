// What the server offers, as the page plays it: models that make sound of sound, and codecs.

import { ArtifactError, checkDocument } from "./artifact.js";
import { marksBy } from "./carrier.js";
import { pairOf } from "./codec.js";
import { sounds } from "./session.js";

const KBPS = 6; // of a codec to begin with, where it has so many

const address = (path) => new URL(path, document.baseURI).href;

async function list(path, headers) {
  let answer;
  try {
    answer = await fetch(address(path), { headers });
  } catch {
    throw new Error("the server cannot be reached; start it with \u201caudiomask serve\u201d and load the page again");
  }
  if (answer.status === 401) throw Object.assign(new Error("this server asks for a token"), { code: "token" });
  if (!answer.ok) throw new Error(`the server has no list of ${path} (it answers ${answer.status})`);
  return answer.json();
}

/** An entry of the list of models, with what the page wants to know of it; `marks`: whether it is by a carrier, which is
 * then no control of the page's; `stems`: its sounds, if they can be turned within what comes in; `width`: the channels
 * that it needs, 1 where it takes any; `wide`: those that it hears, which a microphone is asked for. */
function model(entry) {
  const document = checkDocument(entry);
  if (document.lost) throw new ArtifactError("informed of lost packets, and the page loses those of codecs only");
  const file = { url: address(entry.url ?? `models/${entry.name}.onnx`) };
  const marks = marksBy(document);
  if (marks) delete document.controls.carrier;
  const [heard, { channels }] = [sounds(document), document.streams[0]];
  const stems = document.alike && heard.length > 1 ? heard : [];
  const width = document.alike && channels === 2 ? 1 : channels;
  return { ...document, ...file, marks, sounds: heard, stems, width, wide: channels };
}

/** Likewise of the list of codecs. Such a model has `codec`, its files and hash, and `kbps` of a book. */
function codec({ name, hash, encoder, decoder, probabilities }) {
  const [from, to] = [checkDocument(encoder), checkDocument(decoder)];
  const { codes, books, kbps } = pairOf(from, to);
  const begin = Math.max(1, Math.min(codes.channels, Math.round(KBPS / kbps)));
  const shown = { label: "Bit rate", scale: kbps, unit: "kbit/s", doc: "of the codes of one channel" };
  const port = books && { ...books, ...shown, default: begin };
  const files = { encoder: address(encoder.url), decoder: address(decoder.url), hash };
  const odds = probabilities && { url: address(probabilities.url), hash: probabilities.sha256.slice(0, 16) };
  return {
    name, task: "codec", sample_rate: from.sample_rate, latency: from.latency + to.delay,
    width: from.streams[0].channels, wide: from.streams[0].channels, stems: [], sounds: to.outputs.map((output) => output.name),
    controls: { ...from.controls, ...(port && { [port.name]: port }) },
    codec: { ...files, probabilities: odds }, books: port, kbps, most: codes.channels,
  };
}

/** Return `{models, refused}`: what the page plays, and of the rest lists of names by the reason. Throws an Error that
 * says why there is no list; its `code` is "token" where one is wanted. */
export async function catalogue(headers) {
  const [models, codecs] = [await list("models", headers), await list("codecs", headers)];
  const [played, refused] = [[], new Map()];
  for (const [entry, kind] of [...models.map((entry) => [entry, model]), ...codecs.map((entry) => [entry, codec])]) {
    try {
      played.push(kind(entry));
    } catch (error) {
      const words = error.message.replace(`${entry.name}: `, "");
      refused.set(words, [...(refused.get(words) ?? []), entry.name]);
    }
  }
  return { models: played, refused };
}
