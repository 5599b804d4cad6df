// A reply as NPZ: a ZIP file, not compressed, of numpy arrays (.npy, version 1.0).

/** The arrays by name: {type, shape, values}; types as numpy writes them. */
function arraysOf(head, data) {
  const steps = data.text.length, experts = data.experts.map(e => e.name);
  const voices = voicesOf(data), count = Math.max(0, ...data.top.map(list => list.length));
  const padded = (of, empty) => data.top.flatMap(list => Array.from({length: count}, (_, k) => (list[k] ? of(list[k]) : empty)));
  const log = value => value ?? -Infinity, numbers = (shape, values) => ({type: '<f8', shape, values});
  return {
    trace_json: {type: 'U', shape: [], values: [JSON.stringify(head)]},
    expert: {type: 'U', shape: [experts.length], values: experts},
    voice: {type: 'U', shape: [voices.length], values: voices},
    text: {type: 'U', shape: [steps], values: data.text},
    token_id: {type: '<i8', shape: [steps], values: data.id},
    weight: numbers([steps, experts.length], data.weight.flat()),
    responsibility: numbers([steps, experts.length], data.responsibility.flat().map(v => v ?? NaN)),
    logprob: numbers([steps, voices.length], data.logprob.flat().map(log)),
    ...Object.fromEntries(['probability', 'entropy', 'divergence', 'disagreement'].map(name => [name, numbers([steps], data[name])])),
    top_token_id: {type: '<i8', shape: [steps, count], values: padded(c => c.id, -1)},
    top_text: {type: 'U', shape: [steps, count], values: padded(c => c.text, '')},
    top_probability: numbers([steps, count], padded(c => c.p, NaN)),
    top_logprob: numbers([steps, count, voices.length], padded(c => c.lp.map(log), voices.map(() => NaN)).flat()),
  };
}

function toNpz(head, data) {
  return zip(Object.entries(arraysOf(head, data)).map(([name, array]) => [`${name}.npy`, npy(array)]));
}

/** One array's file. Text is UTF-32, padded with zeros to the longest. */
function npy({type, shape, values}) {
  const texts = type === 'U' ? values.map(text => Array.from(text, c => c.codePointAt(0))) : null;
  const longest = texts ? Math.max(1, ...texts.map(text => text.length)) : 0, size = texts ? 4 * longest : 8;
  const list = shape.length === 1 ? `${shape[0]},` : shape.join(', ');
  const words = `{'descr': '${texts ? `<U${longest}` : type}', 'fortran_order': False, 'shape': (${list}), }`;
  const start = 64 * Math.ceil((11 + words.length) / 64), bytes = new Uint8Array(start + size * values.length), view = new DataView(bytes.buffer);
  bytes.set([0x93, 78, 85, 77, 80, 89, 1, 0]);
  view.setUint16(8, start - 10, true);
  bytes.set(new TextEncoder().encode(words.padEnd(start - 11) + '\n'), 10);
  values.forEach((value, i) => {
    const at = start + i * size;
    if (texts) texts[i].forEach((code, k) => view.setUint32(at + 4 * k, code, true));
    else if (type === '<i8') view.setBigInt64(at, BigInt(value), true);
    else view.setFloat64(at, value, true);
  });
  return bytes;
}

function zip(files) {
  const parts = [], index = [];
  let offset = 0;
  for (const [name, bytes] of files) {
    const title = new TextEncoder().encode(name), sum = crc32(bytes);
    const entry = zipEntry(title, bytes.length, sum, offset);
    parts.push(entry.local, title, bytes);
    index.push(entry.central, title);
    offset += entry.local.length + title.length + bytes.length;
  }
  const size = index.reduce((all, part) => all + part.length, 0), end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  for (const at of [8, 10]) end.setUint16(at, files.length, true);
  end.setUint32(12, size, true);
  end.setUint32(16, offset, true);
  return new Blob([...parts, ...index, end.buffer]);
}

/** The two headers of a stored file; the second one has more fields before and after. */
function zipEntry(title, length, sum, offset) {
  const local = new DataView(new ArrayBuffer(30)), central = new DataView(new ArrayBuffer(46));
  for (const [view, shift, mark] of [[local, 0, 0x04034b50], [central, 2, 0x02014b50]]) {
    view.setUint32(0, mark, true);
    view.setUint16(4, 20, true);
    view.setUint16(4 + shift, 20, true);
    view.setUint16(12 + shift, 0x21, true);  // 1980-01-01
    view.setUint32(14 + shift, sum, true);
    view.setUint32(18 + shift, length, true);
    view.setUint32(22 + shift, length, true);
    view.setUint16(26 + shift, title.length, true);
  }
  central.setUint32(42, offset, true);
  return {local: new Uint8Array(local.buffer), central: new Uint8Array(central.buffer)};
}

function crc32(bytes) {
  crc32.table ??= Uint32Array.from({length: 256}, (_, n) => {
    let c = n;
    for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
    return c;
  });
  let sum = 0xffffffff;
  for (const byte of bytes) sum = crc32.table[(sum ^ byte) & 255] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}
