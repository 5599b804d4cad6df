// A reply's data by columns, what follows from them, and traces as files: JSON and CSV.

const EXPERT_LIMIT = 64, STEP_LIMIT = 4096, CANDIDATE_LIMIT = 64 * 51, FILE_LIMIT = 128 * 1024 * 1024;
const TEXT_LIMIT = 200000, TOKEN_LIMIT = 4000;  // characters: with more a page would not answer
const WEIGHT_SLACK = 1e-3;

/** Glyph and colour of an expert by name: a pole's own, or one by position. */
function lookOf(pack, name, position) {
  for (const dimension of pack.dimensions) {
    const pole = dimension.poles.find(one => one.name === name);
    if (pole) return pole;
  }
  const extra = position % pack.shapes.length;
  return {name, slot: pack.firstExtra + extra, glyph: pack.shapes[extra]};
}

/** Of the space “strength”, recorded like experts but without a weight: what shifts start from, and,
 * where that is another distribution, what they are measured from. */
const ANCHORS = ['plain', 'anchor'];

function emptyData(pack, names) {
  return {
    experts: names.map((name, k) => lookOf(pack, name, k)), total: names.map(() => 0), squares: names.map(() => 0),
    text: [], id: [], weight: [], chance: [], logprob: [], responsibility: [], probability: [], entropy: [],
    disagreement: [], divergence: [], top: [], missing: [], anchors: 0, listed: 0, most: {entropy: 0, disagreement: 0, divergence: 0},
  };
}

/** Append one step, as `runs.py` encodes it. */
function addRow(data, [text, id, weights, probability, logprobs, entropy, disagreement, top, missing, divergence]) {
  const count = data.experts.length, chances = logprobs.slice(0, count).map(chanceOf);
  data.anchors = logprobs.length - count;
  data.text.push(text);
  data.id.push(id);
  data.weight.push(weights);
  data.logprob.push(logprobs);
  data.chance.push(chances);
  data.probability.push(probability);
  data.responsibility.push(responsibility(weights, chances));
  data.entropy.push(entropy);
  data.disagreement.push(disagreement);
  data.top.push(top.map(([cid, ctext, p, lps]) => ({id: cid, text: ctext, p, lp: lps, chance: lps.slice(0, count).map(chanceOf)})));
  data.divergence.push(divergence);
  data.missing.push(missing ?? {});
  // The union of the top k of 1 + experts lists: so many of each are recorded at least.
  data.listed = Math.max(data.listed, Math.ceil(top.length / (1 + count)));
  weights.forEach((w, k) => { data.total[k] += w; data.squares[k] += w * w; });
  for (const name of Object.keys(data.most)) data.most[name] = Math.max(data.most[name], data[name].at(-1) ?? 0);
}

/** The inverse of `addRow`. */
function rowOf(data, i) {
  const top = data.top[i].map(c => [c.id, c.text, c.p, c.lp]);
  return [data.text[i], data.id[i], data.weight[i], data.probability[i], data.logprob[i], data.entropy[i], data.disagreement[i],
    top, data.missing[i], data.divergence[i]];
}

function chanceOf(logprob) {
  return logprob === null ? 0 : Math.exp(logprob);
}

/** How much of the token's probability each expert brought: alpha_i p_i over their sum. */
function responsibility(weights, chances) {
  const shares = weights.map((w, k) => w * chances[k]), all = sum(shares);
  return shares.map(share => (all > 0 ? share / all : null));
}

/** Rank of the chosen token among the recorded candidates, and whether it is its rank among all. */
function rankOf(data, i, k) {
  const p = data.probability[i], before = data.top[i].filter(c => c.p > p && c.id !== data.id[i]).length;
  return {rank: before + 1, exact: before < k && data.top[i].some(c => c.id === data.id[i])};
}

// ---- files

/** JSON that is safe within a script element, whatever its text says. */
function inert(json) {
  return json.replace(/[<>&\u2028\u2029]/g, c => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** Whose log-probabilities are recorded: experts, then anchors. */
function voicesOf(data) {
  return [...data.experts.map(e => e.name), ...ANCHORS.slice(0, data.anchors)];
}

function toTrace(head, data) {
  const named = values => Object.fromEntries(data.experts.map((e, k) => [e.name, values[k]]));
  const voices = voicesOf(data);
  const spoken = values => Object.fromEntries(voices.map((name, k) => [name, values[k]]));
  const steps = data.text.map((text, i) => ({
    index: i, token_id: data.id[i], text, weights: named(data.weight[i]), probability: data.probability[i],
    logprobs: spoken(data.logprob[i]), entropy: data.entropy[i], disagreement: data.disagreement[i], divergence: data.divergence[i],
    top_k: data.top[i].map(c => ({token_id: c.id, text: c.text, probability: c.p, logprobs: spoken(c.lp)})),
    missing: data.missing[i],
  }));
  return {...head, text: data.text.join(''), steps};
}

/** One row a step. Text is a JSON string, so that a spreadsheet takes none of it for a formula. */
function toCsv(data) {
  const names = data.experts.map(e => e.name);
  const head = ['step', 'token_id', 'text_json', 'probability', 'entropy_nats', 'divergence_nats',
    'weighted_divergence_nats', ...['weight', 'responsibility'].flatMap(what => names.map(n => `${what}:${n}`)), ...voicesOf(data).map(n => `logprob:${n}`)];
  const rows = data.text.map((text, i) => [i, data.id[i], JSON.stringify(text), data.probability[i], data.entropy[i],
    data.divergence[i], data.disagreement[i], ...data.weight[i], ...data.responsibility[i], ...data.logprob[i]]);
  const cell = value => {
    const text = String(value ?? '');
    return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };
  return [head, ...rows].map(row => row.map(cell).join(',')).join('\r\n') + '\r\n';
}

class TraceError extends Error {}

/** Read a trace's JSON; throws a TraceError that says what is wrong, and believes nothing. */
function readTrace(text, pack) {
  let trace;
  try { trace = JSON.parse(text); } catch {
    throw new TraceError('This file is no JSON, or it was cut short: export the reply again.');
  }
  const isObject = value => typeof value === 'object' && value !== null && !Array.isArray(value);
  const wrong = what => { throw new TraceError(`This file is no trace that can be read: ${what}.`); };
  if (!isObject(trace) || !('schema_version' in trace)) wrong('it has no schema_version');
  if (trace.schema_version !== pack.schema) {
    throw new TraceError(`This trace has schema ${shorten(JSON.stringify(trace.schema_version) ?? '', 20)}; `
      + `this page reads ${pack.schema}.`);
  }
  for (const name of ['pack', 'prompt', 'preference', 'method', 'space', 'text', 'finish_reason', 'device', 'precision']) {
    if (typeof trace[name] !== 'string') wrong(`“${name}” is missing or no text`);
  }
  const long = [trace.text, trace.prompt, ...(Array.isArray(trace.messages) ? trace.messages.map(m => m?.content) : [])].find(text => text?.length > TEXT_LIMIT);
  if (long) wrong(`it has a text of ${long.length} characters; at most ${TEXT_LIMIT} are read`);
  if (!Number.isSafeInteger(trace.seed) || trace.seed < 0) wrong('“seed” is missing or no whole number');
  for (const name of ['settings', 'timing', 'hashes']) if (!isObject(trace[name])) wrong(`“${name}” is missing or no object`);
  for (const name of ['first_token_s', 'total_s', 'tokens_per_s']) if (typeof trace.timing[name] !== 'number' || !(trace.timing[name] >= 0)) wrong(`its timing has no proper “${name}”`);
  if (!Array.isArray(trace.messages) || !trace.messages.every(m => isObject(m) && typeof m.role === 'string' && typeof m.content === 'string')) {
    wrong('“messages” is no list of turns');
  }
  if (!Array.isArray(trace.poles) || !trace.poles.every(p => typeof p === 'string')) wrong('“poles” is no list of names');
  if (!Array.isArray(trace.steps)) wrong('it has no steps');
  if (trace.steps.length > STEP_LIMIT) wrong(`it has ${trace.steps.length} steps; at most ${STEP_LIMIT} are read`);
  const names = isObject(trace.steps[0]?.weights) ? Object.keys(trace.steps[0].weights) : [...trace.poles];
  if (names.length > EXPERT_LIMIT) wrong(`it has ${names.length} experts; at most ${EXPERT_LIMIT} are read`);
  const anchors = ANCHORS.filter(name => !names.includes(name) && trace.steps[0]?.logprobs?.[name] !== undefined);
  if (anchors.length === 1 && anchors[0] !== ANCHORS[0]) wrong(`step 1 has log-probabilities of “${ANCHORS[1]}” but none of “${ANCHORS[0]}”, which shifts start from`);
  const rows = trace.steps.map((step, i) => readStep(step, names, anchors, problem => wrong(`step ${i + 1} ${problem}`)));
  if (rows.map(row => row[0]).join('') !== trace.text) wrong('its steps do not join to its text');
  const {steps, ...head} = trace;
  return {head, names, rows};
}

function readStep(step, names, anchors, wrong) {
  const number = (value, what, low, high) => {
    if (typeof value !== 'number' || !(value >= low && value <= high)) wrong(`has no proper ${what}`);
    return value;
  };
  const logprob = value => (value === null ? null : Math.min(0, number(value, 'log-probability', -Infinity, 1e-3)));
  const logprobs = from => [...names, ...anchors].map(name => logprob(from?.[name] ?? null));
  if (typeof step !== 'object' || step === null) wrong('is no object');
  const texts = [step, ...(Array.isArray(step.top_k) ? step.top_k : [])].map(one => one?.text);
  if (typeof step.text !== 'string') wrong('has no text');
  if (texts.some(text => text?.length > TOKEN_LIMIT)) wrong(`has a token of more than ${TOKEN_LIMIT} characters`);
  if (Object.keys(step.weights ?? {}).length !== names.length) wrong('has other experts than the first');
  const weights = names.map(name => number(step.weights[name], `weight of ${shorten(name, 30)}`, 0, 1 + 1e-6));
  if (Math.abs(sum(weights) - 1) > WEIGHT_SLACK) wrong('has weights that are no shares of 1');
  if (!Array.isArray(step.top_k) || step.top_k.length > CANDIDATE_LIMIT) wrong('has no proper list of candidates');
  const top = step.top_k.map(c => {
    if (typeof c?.text !== 'string') wrong('has a candidate without a text');
    return [number(c.token_id, 'candidate', 0, 1e9), c.text, number(c.probability, 'candidate', 0, 1 + 1e-6), logprobs(c.logprobs)];
  });
  const missing = Object.fromEntries(Object.entries(step.missing ?? {})
    .map(([name, mass]) => [name, number(mass, 'missing mass', 0, 1 + 1e-6)]));
  return [step.text, number(step.token_id, 'token id', 0, 1e9), weights, number(step.probability, 'probability', 0, 1 + 1e-6),
    logprobs(step.logprobs), number(step.entropy, 'entropy', -1e-3, 1e3), number(step.disagreement, 'disagreement', -1e-3, 1e3), top, missing,
    number(step.divergence, 'divergence', -1e-3, 1e3)];
}
