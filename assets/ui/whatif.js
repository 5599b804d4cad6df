// What the merged distribution of one step would be under other weights, from what was recorded.

/**
 * Args: data and step; weights on the simplex, one an expert; the merging space with its numbers at this
 * step; how many candidates of each expert are recorded (k) and to be listed.
 * Returns rows, likeliest first, each {token, low, high, sure}: bounds on the token's probability, and
 * whether no unrecorded token can come before it; the mass of all others; and whether all is exact.
 */
function whatIf(data, i, weights, {space, strength, plausibility = 0}, k) {
  const tokens = candidatesOf(data, i), experts = weights.map((_, e) => e).filter(e => weights[e] > 0);
  const each = weights.map((_, e) => unlisted(tokens.map(t => t.chance[e]), k));
  const used = {tokens, experts, weights, rest: experts.map(e => each[e].rest), last: experts.map(e => each[e].last)};
  const asItWas = weights.every((w, e) => Math.abs(w - data.weight[i][e]) < 1e-6);
  const {low, high, unseen} = asItWas ? {low: tokens.map(t => t.p), high: tokens.map(t => t.p), unseen: 0}
    : MERGES[space](used, {anchors: data.anchors, each, strength, share: plausibility});
  const rows = tokens.map((token, n) => ({token, low: low[n], high: high[n], sure: high[n] >= unseen}))
    .sort((a, b) => b.high - a.high).slice(0, k).filter(row => row.high > 0);
  // Of a server's unlisted tokens the engine itself knows only their sum.
  const guessed = Object.keys(data.missing?.[i] ?? {}).length > 0;
  if (unseen === Infinity) return {rows, others: null, exact: false};
  const others = {low: Math.max(0, 1 - sum(rows.map(r => r.high))), high: Math.max(0, 1 - sum(rows.map(r => r.low)))};
  return {rows, others, exact: rows.every(r => r.sure && r.high - r.low < 5e-4) && !guessed};
}

/**
 * What one voice gives tokens outside the record: all of them (rest), and one at most (last). No
 * unrecorded token is likelier under an expert than the last of its k recorded ones.
 */
function unlisted(chances, k) {
  const sorted = [...chances].sort((a, b) => b - a), rest = Math.max(0, 1 - sum(sorted));
  return {most: sorted[0] ?? 0, rest, last: Math.min(rest, sorted[k - 1] ?? 0)};
}

/** The recorded candidates of a step, and the chosen token, which may have been none of them. */
function candidatesOf(data, i) {
  const listed = data.top[i];
  if (listed.some(c => c.id === data.id[i])) return listed;
  return [...listed, {id: data.id[i], text: data.text[i], p: data.probability[i], lp: data.logprob[i], chance: data.chance[i]}];
}

const MERGES = {
  /** A weighted mean: each token's probability follows from its own recorded ones. */
  probability({tokens, experts, weights, last}) {
    const p = tokens.map(t => sum(experts.map(e => weights[e] * t.chance[e])));
    return {low: p, high: p, unseen: sum(experts.map((e, n) => weights[e] * last[n]))};
  },
  /** A weighted product, normalised: what the unrecorded tokens add to the norm is bounded by Hölder's inequality. */
  logit({tokens, experts, weights, rest, last}) {
    const product = values => values.reduce((all, value, n) => all * value ** weights[experts[n]], 1);
    const raw = tokens.map(t => product(experts.map(e => t.chance[e])));
    const seen = sum(raw), most = seen + product(rest);
    return {low: raw.map(v => v / most), high: raw.map(v => v / (seen || 1)), unseen: product(last) / (seen || 1)};
  },
  /**
   * A start (the first anchor) moved by shifts away from the last anchor, which may be the same row.
   * Shifts of unrecorded tokens have no bound. But below the plausibility floor tokens are taken out:
   * where none outside the record can be above it, what is recorded is everything. Elsewhere only the
   * recorded tokens' ratios to each other are known: they are shown as shares of their sum.
   */
  strength({tokens, experts, weights}, {anchors, each, strength, share}) {
    const n = each.length, start = unlisted(tokens.map(t => chanceOf(t.lp[n])), Infinity);
    const raw = tokens.map(t => {
      const tiny = t.p === 0 && (share === 0 || each.some((e, k) => t.chance[k] >= share * e.most));  // no floor took it out
      if ((t.p === 0 && !tiny) || t.lp.some(v => v === null)) return -Infinity;
      return t.lp[n] + strength * (sum(experts.map(e => weights[e] * t.lp[e])) - t.lp[n + anchors - 1]);
    });
    const most = Math.max(...raw), p = raw.map(v => (v === -Infinity ? 0 : Math.exp(v - most))), all = sum(p);
    const complete = each.every(e => e.last < share * e.most) && start.rest < share * start.most;
    const shares = p.map(v => (all > 0 ? v / all : 0));
    return {low: shares, high: shares, unseen: complete ? 0 : Infinity};
  },
};

/** The sliders and their answer for one token; `forced` outlives a repaint. */
class WhatIf {
  constructor() { this.key = ''; this.forced = null; }

  panel(version, i) {
    const {data, listed: k} = version, node = make('details', 'mpd-whatif');
    const key = `${version.id}/${i}`;
    if (this.key !== key) { this.key = key; this.forced = null; }
    node.open = this.open ?? false;
    node.addEventListener('toggle', () => { this.open = node.open; });
    node.append(make('summary', '', 'What if the weights were others?'));
    const known = Object.hasOwn(MERGES, version.space) && (version.space !== 'strength' || (data.anchors > 0 && Number.isFinite(version.strengthAt(i))));
    if (!known && !canBranch(version)) {
      node.append(make('p', 'mpd-hint', `Replies merged in the space “${version.space}” cannot be weighed anew here.`));
      return node;
    }
    const body = make('div', 'mpd-whatif-body'), answer = make('div', 'mpd-answer');
    answer.setAttribute('aria-live', 'polite');
    const was = data.weight[i], sliders = data.experts.map((e, n) => this.slider(e, n, was, () => answerTo(sliders.map(s => Number(s.input.value)))));
    const answerTo = raw => {
      const all = sum(raw), weights = all > 0 ? raw.map(v => v / all) : raw.map(() => 1 / raw.length);
      this.forced = weights;
      sliders.forEach((s, n) => {
        s.value.textContent = percent(weights[n]);
        s.input.style.setProperty('--share', s.input.value / 100);
      });
      if (known) showAnswer(answer, data, i, whatIf(data, i, weights, {space: version.space, strength: version.strengthAt(i), plausibility: version.plausibility}, k));
    };
    const set = values => {  // exactly these, where a slider would round
      values.forEach((v, n) => { sliders[n].input.value = v * 100; });
      answerTo(values);
    };
    const buttons = make('div', 'mpd-presets');
    buttons.append(makeButton('as it was', '', () => set(was)), makeButton('uniform', '', () => set(was.map(() => 1 / was.length))),
      ...data.experts.map((e, n) => makeButton(`only ${e.name}`, '', () => set(was.map((_, m) => (m === n ? 1 : 0))))));
    body.append(term('whatif', 'How this is computed'), buttons, ...sliders.map(s => s.node), answer);
    if (canBranch(version)) body.append(term('branch', 'Go on with these weights'), branchButtons(version, i, () => this.forced));
    node.append(body);
    set(this.forced ?? was);
    return node;
  }

  slider(expert, n, was, changed) {
    const node = make('label', 'mpd-force'), input = make('input'), value = make('span', 'mpd-value');
    Object.assign(input, {type: 'range', min: 0, max: 100, step: 1, value: 100 * was[n]});
    input.setAttribute('aria-label', `Forced weight of ${expert.name}`);
    input.addEventListener('input', changed);
    node.dataset.slot = expert.slot;
    node.append(glyphOf(expert), make('span', 'mpd-force-name', expert.name), input, value);
    return {node, input, value};
  }
}

function showAnswer(node, data, i, {rows, others, exact}) {
  const range = (low, high) => (high - low < 5e-4 ? percent(low) : `${percent(low)} to ${percent(high)}`);
  const list = make('ol', 'mpd-ranked');
  for (const {token, low, high, sure} of rows) {
    const item = make('li', token.id === data.id[i] ? 'chosen' : '');
    const bar = make('span', 'mpd-bar');
    bar.style.setProperty('--share', low);
    item.append(make('span', 'mpd-cell-token', tokenTick(token.text, 16)), bar, make('span', 'mpd-value', range(low, high)),
      make('span', 'mpd-was', sure ? `was ${percent(token.p)}` : `was ${percent(token.p)}, rank open`));
    list.append(item);
  }
  const rest = make('p', 'mpd-hint', others ? `others ${range(others.low, others.high)}` : 'shares of the recorded tokens’ sum; others are not known');
  const note = make('p', 'mpd-mark', exact ? 'exact' : others ? 'bounded: tokens outside the record could matter' : 'relative: ratios of recorded tokens alone');
  node.dataset.exact = exact;
  node.replaceChildren(note, list, rest);
}
