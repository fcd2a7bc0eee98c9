// Sounds and other streams as rows: a list of typed arrays of one length, one a channel.

/** Return `rows` rows of `count` zeros. */
export const zeros = (rows, count, Kind = Float32Array) => Array.from({ length: rows }, () => new Kind(count));

/** Return a view of the frames from `start` to `stop`. */
export const part = (rows, start, stop) => rows.map((row) => row.subarray(start, stop));

/** Return typed arrays one after the other; a single one that is not empty comes back as it is. */
export function concat(arrays) {
  const full = arrays.filter((array) => array.length);
  if (full.length < 2) return full[0] ?? arrays[0];
  const all = new full[0].constructor(full.reduce((sum, array) => sum + array.length, 0));
  let at = 0;
  for (const array of full) {
    all.set(array, at);
    at += array.length;
  }
  return all;
}

/** Return a list of streams of the same channels one after the other. */
export const join = (streams) => (streams[0] ?? []).map((_, c) => concat(streams.map((rows) => rows[c])));
