// One reply: its tokens as they come, and how they are shown. A turn may have several versions.

/** What a reply can be saved as: label, action, words, class. */
const KEEP = [
  ['JSON', 'json', 'The whole trace; “Open a trace” shows it again', ''],
  ['CSV', 'csv', 'One row a token, for spreadsheets', ''],
  ['NPZ', 'npz', 'Arrays for numpy.load, candidates too', ''],
  ['HTML', 'html', 'A page of its own that opens without a network', 'live'],
];
const ORIGINS = {file: 'from a file', stored: 'a stored example, written earlier'};
const CUT = 'The connection was lost: this is what had arrived.';

/** How a reply was made, as terms that explain themselves. */
function methodName(pack, method) {
  const label = Object.hasOwn(pack.methods, method) ? pack.methods[method].split(':')[0] : method, kind = `method-${method.split(':')[0]}`;
  const node = make('span', 'mpd-method');
  node.append(Object.hasOwn(TERMS, kind) ? term(kind, label) : label);
  return node;
}

function seedName(seed) {
  const node = make('span', 'mpd-seed');
  node.append(term('seed', `seed ${seed}`));
  return node;
}

class Version {
  /**
   * plan: {id, messages, preference, settings, origin, branch, names}; its last message is the prompt.
   * from: the version that a branch leaves, whose first tokens it has.
   */
  constructor(pack, form, plan, actions, from = null) {
    Object.assign(this, {pack, plan, actions, id: plan.id, head: null, status: 'waiting', message: '', finish: ''});
    this.rows = [];  // chunks of steps as they came, for the browser's storage
    this.unsaved = true;
    this.data = emptyData(pack, []);
    Object.assign(this, {arrived: [], scale: 0, coloured: 0});  // what the strip's colours are of
    this.build(form);
    if (plan.branch && from) this.inherit(from, plan.branch.prefix.length);
  }

  /** Begin with another version's tokens. */
  inherit(from, count) {
    this.data = emptyData(this.pack, from.data.experts.map(e => e.name));
    if (count > 0) this.add(JSON.stringify(Array.from({length: count}, (_, i) => rowOf(from.data, i))));
    this.arrived = [];
  }

  /** Chunks that did not come from the server. */
  get given() { return this.plan.branch?.prefix.length ? 1 : 0; }
  get prompt() { return this.plan.messages.at(-1).content; }
  get text() { return this.data.text.join(''); }
  get closed() { return !['waiting', 'streaming'].includes(this.status); }
  get space() { return this.head?.space ?? this.plan.settings.space; }
  /** How many likeliest tokens of each expert are recorded; another pack's file does not say, but bounds it. */
  get listed() {
    const own = !this.plan.origin || this.head?.hashes['pack.toml'] === this.pack.hash;
    return own ? this.pack.topK : this.data.listed;
  }
  /** B of the space “strength” at token i. Files from before it faded say nothing of that. */
  strengthAt(i) {
    const {strength, settled = 1, fade = 1} = this.head?.settings ?? this.plan.settings;
    return strength * (settled + (1 - settled) * Math.exp(-i / fade));
  }

  /** Share of the likeliest token's probability below which a token is taken out in that space. */
  get plausibility() { return (this.head?.settings ?? this.plan.settings).plausibility ?? 0; }

  build(form) {
    const {method, seed} = this.plan.settings, uses = method !== 'vanilla' && !method.startsWith('expert:');
    this.node = make('article', 'mpd-version');
    const made = make('div', 'mpd-made'), tags = make('ul', 'mpd-legend mpd-tags');
    if (uses) legend(tags, form.chosen(this.plan.preference));
    made.append(tags, methodName(this.pack, method), seedName(seed),
      ...(ORIGINS[this.plan.origin] ? [make('span', 'mpd-origin', ORIGINS[this.plan.origin])] : []),
      ...(this.plan.branch ? [make('span', 'mpd-origin', branchName(this.plan))] : []));
    this.means = make('div', 'mpd-mix');
    this.means.setAttribute('role', 'img');
    const strip = make('div', 'strip');
    strip.setAttribute('role', 'group');
    strip.setAttribute('aria-label', 'Tokens of the reply');
    strip.dataset.run = this.id;
    this.strip = new Strip(strip);
    this.read = make('div', 'mpd-read');
    this.end = make('p', 'mpd-end');
    this.buttons = make('div', 'mpd-actions');
    const button = (label, act, className = '') => this.buttons.append(makeButton(label, className, () => this.actions[act](this)));
    button('Open', 'open', 'only-grid');
    button('Copy', 'copy');
    button('Ask again', 'again', 'only-last live');
    button('Another seed', 'reseed', 'only-last live');
    button('Edit', 'edit', 'only-last live');
    button('Link', 'link', 'not-grid live');
    const keep = make('details', 'mpd-keep only-done'), kinds = make('div', 'mpd-presets');
    keep.append(make('summary', '', 'Save as'), kinds);
    for (const [label, act, words, className] of KEEP) {
      const made = makeButton(label, className, () => this.actions[act](this));
      made.title = words;
      kinds.append(made);
    }
    this.buttons.append(keep);
    this.asked = make('p', 'mpd-own-prompt');
    this.asked.dir = 'auto';
    this.node.append(this.asked, made, this.means, strip, this.read, this.end, this.buttons);
  }

  /** Take what a frame says; false if chunks before it are missing. */
  take(said) {
    if (this.closed) return true;  // a late frame of a reply that was stopped
    if (said.experts.length && this.data.experts.length === 0) this.data = emptyData(this.pack, said.experts);
    const have = () => this.rows.length - this.given;
    while (have() < said.count && said.parts[have()] !== undefined) this.add(said.parts[have()]);
    if (have() < said.count) return false;
    Object.assign(this, {heard: true, heardAt: performance.now(), ahead: said.ahead});
    Object.assign(this, {status: said.status, message: said.message, finish: said.finish, unsaved: true});
    if (said.head) this.head = JSON.parse(said.head);
    return true;
  }

  add(part) {
    for (const row of JSON.parse(part)) addRow(this.data, row);
    this.rows.push(part);
    this.arrived.push([performance.now(), this.data.text.length]);
    this.unsaved = true;
  }

  /** End a reply that nobody writes any more. */
  cut(message = '') {
    if (!this.closed) Object.assign(this, {status: message ? 'failed' : 'done', message, finish: 'cancelled', unsaved: true});
  }

  timing() {
    const known = this.head?.timing;
    if (known) return {first: known.first_token_s, rate: known.tokens_per_s};
    const first = this.arrived[0], last = this.arrived.at(-1);
    return {first: null, rate: first && last[0] > first[0] ? 1000 * (last[1] - first[1]) / (last[0] - first[0]) : null};
  }

  /** The head of the trace; of a reply whose end never came, as far as the page knows it. */
  heading() {
    if (this.head) return this.head;
    const {method, space, seed, ...settings} = this.plan.settings;
    return {
      pack: this.pack.name, hashes: {}, trained: false, prompt: this.prompt, messages: this.plan.messages,
      preference: this.plan.preference, poles: [], method, space, settings, seed, device: state.engine.device,
      precision: state.engine.precision, finish_reason: 'cancelled', prompt_tokens: 0,
      timing: {first_token_s: 0, total_s: 0, tokens_per_s: 0}, schema_version: this.pack.schema,
    };
  }

  /** For the browser's storage; the inverse of `restored`. */
  record() {
    const {plan, head, status, message, finish, rows} = this;
    return {plan, head, status, message, finish, rows: [...rows], experts: this.data.experts.map(e => e.name)};
  }

  static restored(pack, form, record, actions) {
    const version = new Version(pack, form, record.plan, actions);
    version.data = emptyData(pack, record.experts);
    for (const part of record.rows) version.add(part);
    const {head, status, message, finish} = record;
    return Object.assign(version, {head, status, message, finish, arrived: [], unsaved: false});
  }

  paint(look, rival) {
    this.node.dataset.status = this.status;
    this.paintStrip(look);
    this.paintMeans();
    if (look.view === 'read') this.paintRead();
    const stopped = this.status === 'done' && this.finish === 'cancelled', limit = this.status === 'done' && this.finish === 'length';
    this.end.textContent = this.message || [stopped ? 'Stopped.' : limit ? 'Cut at the limit of new tokens.' : '',
      rival && rival !== this && this.closed ? difference(this.data.text, rival.data.text) : ''].filter(Boolean).join(' ');
    if (rival && rival !== this && this.closed) this.markDifference(rival.data.text);
  }

  paintStrip(look) {
    const {strip, data} = this, count = data.text.length, way = COLOURINGS[look.mode];
    if (count > strip.tokens.length) {
      strip.grow(data, look.mode, look.unit);
      strip.tokens[this.plan.branch?.prefix.length]?.classList.add('branched');
    }
    // What a colour is measured against moves with the reply: earlier tokens follow now and then, and at its end.
    const due = this.closed ? count > this.coloured : count > 1.25 * this.coloured;
    if (way.whole ? due : way.most?.(data) > 1.1 * this.scale) this.recolour(look);
  }

  recolour(look) {
    this.scale = COLOURINGS[look.mode].most?.(this.data) ?? 0;
    this.coloured = this.strip.tokens.length;
    this.strip.recolour(this.data, look.mode, look.unit);
  }

  paintMeans() {
    const {experts, total, text} = this.data, count = text.length;
    this.means.hidden = count === 0 || experts.length < 2;
    if (this.means.hidden) return;
    const label = experts.map((e, k) => `${e.name} ${percent(total[k] / count)}`).join(', ');
    if (this.means.getAttribute('aria-label') === `Mean weights: ${label}`) return;
    this.means.setAttribute('aria-label', `Mean weights: ${label}`);
    this.means.title = label;
    this.means.replaceChildren(...experts.map((e, k) => {
      const share = total[k] / count, part = make('span', '', share < 0.15 ? e.glyph : `${e.glyph} ${percent(share)}`);  // half a number is a wrong one
      part.dataset.slot = e.slot;
      part.style.flexGrow = share.toFixed(4);
      return part;
    }));
  }

  /** Markdown is read as a whole, so while a reply is written only now and then. */
  paintRead() {
    const now = performance.now(), shown = `${this.data.text.length} ${this.closed}`, wait = this.closed ? 0 : 500 - (now - (this.readAt ?? -500));
    clearTimeout(this.readLater);
    if (this.shown === shown) return;
    if (wait > 0) {  // and the last words before a pause are shown, too
      this.readLater = setTimeout(repaint, wait);
      return;
    }
    Object.assign(this, {shown, readAt: now});
    renderMarkdown(this.read, this.text);
  }

  markDifference(other) {
    const first = this.data.text.findIndex((token, i) => token !== other[i]);
    this.strip.tokens.forEach((token, i) => token.classList.toggle('diverges', i === first));
  }
}

function difference(text, other) {
  const first = text.findIndex((token, i) => token !== other[i]);
  if (first < 0) return text.length === other.length ? 'The same as the first reply.' : 'The same as the first reply, as far as it goes.';
  return first === 0 ? '' : `The same as the first reply up to token ${first}.`;
}
