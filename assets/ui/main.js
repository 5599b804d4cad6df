// The page: takes frames from the server, keeps the conversation, links strip, map and inspector.
// Runs as the body of Gradio's js_on_load, with element, props, watch and trigger in scope.
// Attributes for tests: data-run, data-count, data-done, data-status on the root.

const $ = selector => element.querySelector(selector);
const root = $('.mpd'), log = $('.mpd-log'), side = $('.mpd-side'), pack = props.pack;
const form = new Form(pack), store = new Store(pack.name), inspector = new Inspector(side, pack.topK);
const wide = window.matchMedia('(min-width: 1200px)'), phone = window.matchMedia('(max-width: 767px)');

const state = {
  turns: [], version: null,        // version: the one that map and inspector show
  hovered: null, pinned: null,     // token indices within it
  look: {mode: props.trained ? 'weight' : 'keenest', unit: 'token', view: 'tokens'},
  intent: null,                    // what the next press of Run is for, where it is no plain run
  fill: null,                      // values for the controls
  fetch: new Set(),                // versions whose chunks are missing
  follow: true,                    // whether the end of the reply is kept in sight
  editing: null,                   // the turn whose instruction is being changed
  ready: false,                    // whether what the browser had kept is back
  stopping: [],                    // versions that ended here, of which the server must hear
  last: {prompt: null, at: 0},
};
const versions = () => state.turns.flatMap(turn => turn.versions);
const open = () => versions().filter(version => !version.closed);
const turnOf = version => state.turns.find(turn => turn.versions.includes(version));
const map = new TokenMap($('.mpd-figure'), {hover: i => hover(state.version, i), pin: i => pin(state.version, i, true)});

// ---- frames

function take(frame) {
  if (frame.refused) notice(frame.refused);
  for (const [id, said] of Object.entries(frame.runs ?? {})) {
    const version = versions().find(v => v.id === id);
    if (version) takeRun(version, said);
  }
  for (const id of frame.lost ?? []) { versions().find(v => v.id === id)?.cut(CUT); state.fetch.delete(id); }
  repaint();
}

function takeRun(version, said) {
  const waiting = version.status === 'waiting';
  if (said.status === 'refused') return refuse(version, said.message);
  if (!version.take(said)) return missing(version);
  state.fetch.delete(version.id);
  if (waiting && said.status !== 'waiting') accepted(version);
  if (said.status === 'failed') giveBack(version);
  if (version.closed) store.now(state.turns);
  else store.soon(() => state.turns);
}

/** Ask for the chunks that were missed: a hidden tab or a lost connection. */
function missing(version, delay = 0) {
  if (state.fetch.has(version.id)) return;
  state.fetch.add(version.id);
  setTimeout(() => trigger('fetch', {}), delay);
  setTimeout(() => state.fetch.delete(version.id), delay + 2000);  // the answer may be lost as well
}

/** The prompt box can be emptied, unless something else was typed meanwhile. */
function accepted(version) {
  fill(now => (now.prompt === version.prompt ? {...now, prompt: ''} : now));
}

function giveBack(version) {
  fill(now => (now.prompt.trim() === '' ? {...now, prompt: version.prompt} : now));
}

function refuse(version, message) {
  const turn = turnOf(version);
  const alone = turn.versions.length === 1;
  if (turn.grid && !alone) { version.cut(message); return; }
  turn.drop(version);
  if (alone) {
    turn.node.remove();
    state.turns = state.turns.filter(t => t !== turn);
  }
  if (state.version === version) activate(turn.version ?? state.turns.at(-1)?.version ?? null);
  notice(message);
  giveBack(version);
  store.now(state.turns);
}

// ---- asking

/** What the turns before one say; replies without text are no part of a conversation. */
function history(turns) {
  return turns.filter(turn => turn.version.text.trim() !== '').flatMap(turn => [
    {role: 'user', content: turn.version.prompt}, {role: 'assistant', content: turn.version.text}]);
}

/** Gradio calls this at Run: note what is asked, show it, and return it for the server. */
function ask(...values) {
  const now = form.read(values), intent = state.intent ?? {}, prompt = intent.prompt ?? now.prompt;
  state.intent = null;
  const empty = prompt.trim() === '', soon = performance.now() - state.last.at < 800;
  if (!intent.replies && soon && (empty || prompt === state.last.prompt)) return '';  // a double press
  if (empty) { notice('The prompt is empty: type an instruction.'); return ''; }
  state.last = {prompt, at: performance.now()};
  stopAll();
  const at = intent.turn ?? state.editing;
  state.editing = null;
  const turn = at && state.turns.includes(at) ? at : addTurn();
  const replies = intent.replies ?? [{}];
  const before = history(state.turns.slice(0, state.turns.indexOf(turn)));
  const made = replies.map(reply => new Version(pack, form, {
    id: randomId(), preference: reply.preference ?? now.preference, settings: form.known({...now.settings, ...reply.settings}),
    messages: [...before, {role: 'user', content: prompt}],
  }, actions));
  for (const version of made) turn.add(version);
  if (replies.length > 1) turn.grid = true;
  turn.show(turn.versions.indexOf(made[0]));
  notice('');
  activate(made[0]);
  state.follow = true;
  repaint();
  store.now(state.turns);
  return JSON.stringify(made.map(({plan: {id, messages, preference, settings}}) => ({id, messages, preference, settings})));
}

/** End what is being written: the page does not wait for the server's word. */
function stopAll() {
  const busy = open();
  if (!busy.length) return;
  state.stopping = busy.map(version => version.id);
  document.querySelector('#stop').click();
  for (const version of busy) version.cut();
}

/** Press Run for something other than what the controls say. */
function askFor(intent) {
  state.intent = intent;
  document.querySelector('#run').click();
}

function addTurn() {
  const turn = new Turn(actions);
  state.turns.push(turn);
  log.append(turn.node);
  return turn;
}

const lastTurn = version => turnOf(version) === state.turns.at(-1);
const actions = {
  open(version) {
    const turn = turnOf(version);
    turn.grid = false;
    actions.page(turn, turn.versions.indexOf(version));
  },
  page(turn, index) { turn.show(index); activate(turn.version); saveAndPaint(); },
  arrange(turn, grid) { turn.grid = grid; turn.arrange(); activate(turn.version); saveAndPaint(); },
  async copy(version) { said(await copyText(version.text), 'The reply is copied.'); },
  async link(version) {
    const {preference, settings} = version.plan;
    said(await copyText(form.toLink({prompt: version.prompt, preference, settings})), 'The link is copied.');
  },
  again(version) { askFor({prompt: version.prompt, turn: turnOf(version)}); },
  reseed(version) {
    const {preference, settings} = version.plan;
    if (settings.temperature === 0) {
      notice('At temperature 0 every seed gives the same reply: raise the temperature under Advanced settings and press “Ask again”.');
      return;
    }
    const seed = crypto.getRandomValues(new Uint32Array(1))[0];
    askFor({prompt: version.prompt, turn: turnOf(version), replies: [{preference, settings: {...settings, seed}}]});
  },
  edit(version) {
    state.editing = turnOf(version);
    fill(now => ({...now, prompt: version.prompt}));
    notice('Change the instruction and press Run: the new reply becomes a version of this turn.', 'Cancel', () => { state.editing = null; notice(''); });
    document.querySelector('#prompt textarea').focus();
  },
  json(version) { saveFile(fileName(version, '.json'), 'application/json', JSON.stringify(toTrace(version.heading(), version.data))); },
  csv(version) { saveFile(fileName(version, '.csv'), 'text/csv', toCsv(version.data)); },
};

const fileName = ({plan}, ending) => `mpd-${plan.preference}-${plan.settings.method}-seed${plan.settings.seed}`.replace(/[^\w-]+/g, '-') + ending;

function said(done, words) {
  notice(done ? words : 'The browser did not allow it: select the text and copy it by hand.');
}

function saveAndPaint() {
  store.now(state.turns);
  repaint();
}

// ---- a file without a model

async function openFile(file) {
  try {
    if (file.size > FILE_LIMIT) throw new TraceError(`This file has ${Math.round(file.size / 2 ** 20)} MB; at most ${FILE_LIMIT / 2 ** 20} are read.`);
    replay(readTrace(await file.text(), pack));
  } catch (error) {
    if (!(error instanceof TraceError)) console.warn(error);
    notice(error instanceof TraceError ? error.message : 'This file could not be read.');
  }
}

function replay({head, names, rows}) {
  const {settings, method, space, seed, preference} = head;
  const messages = head.messages.length ? head.messages : [{role: 'user', content: head.prompt}];
  const version = new Version(pack, form, {id: randomId(), messages, preference, origin: 'file',
    settings: {...settings, method, space, seed}}, actions);
  version.data = emptyData(pack, names);
  version.add(JSON.stringify(rows));
  Object.assign(version, {head, status: 'done', finish: head.finish_reason, arrived: []});
  addTurn().add(version);
  notice('');
  activate(version);
  state.follow = true;
  saveAndPaint();
}

// ---- words for the visitor

function announce() {
  const writing = open();
  root.dataset.busy = writing.length > 0;
  if (writing.length) {
    const tokens = sum(writing.map(v => v.data.text.length)), rate = writing.length === 1 ? writing[0].timing().rate : null;
    const started = writing.some(v => v.status === 'streaming');
    status(!started ? 'The experts are reading your instruction…'
      : `Writing${writing.length > 1 ? ` ${writing.length} replies` : ''}… ${tokens} tokens${rate ? `, ${rate.toFixed(1)} tokens/s` : ''}`);
  } else {
    const version = state.version;
    status(version?.status === 'done' ? `Reply ${FINISH[version.finish] ?? 'done'}, ${version.data.text.length} tokens.` : '');
  }
}

function status(text) {
  if ($('.mpd-status').textContent !== text) $('.mpd-status').textContent = text;
}

function notice(text, label, act) {
  const box = $('.mpd-notice');
  box.replaceChildren(...(text ? [make('span', '', text), ...(label ? [makeButton(label, '', act)] : [])] : []));
  if (text) box.scrollIntoView({block: 'nearest'});
}

// ---- painting, at most once an animation frame

let queued = false;
function repaint() {
  if (queued) return;
  queued = true;
  requestAnimationFrame(() => { queued = false; paint(); });
}

function paint() {
  for (const turn of state.turns) {
    turn.node.classList.toggle('last', turn === state.turns.at(-1));
    if (turn.stale || turn.versions.some(v => v.painted !== v.rows.length + v.status)) paintTurn(turn);
  }
  const {version} = state;
  $('.mpd-empty').hidden = state.turns.length > 0;
  root.classList.toggle('reading', state.look.view === 'read');
  paintDetail();
  map.show(version?.data ?? null);
  $('.mpd-explore').hidden = !version?.closed;
  paintScale();
  announce();
  if (state.follow) followEnd();
  mark();
}

function paintTurn(turn) {
  turn.stale = state.look.view === 'read' && turn.versions.some(v => !v.closed);
  turn.paint(state.look);
  for (const version of turn.versions) version.painted = version.rows.length + version.status;
}

/** Attributes that tests wait for; all of them change together, with what is painted. */
function mark() {
  if (!state.ready) return;
  const {version} = state, writing = open().length > 0;
  Object.assign(element.dataset, {
    run: version?.id ?? '', status: version?.status ?? 'idle', count: version?.strip.tokens.length ?? 0, done: !writing,
  });
}

function paintScale() {
  const way = COLOURINGS[state.look.mode], box = $('.mpd-scale'), most = state.version && way.most?.(state.version.data);
  box.hidden = !way.scale || !most;
  if (!box.hidden) box.textContent = `${way.scale}: bar from 0 to ${most.toFixed(2)}${way.unit}`;
}

function shownToken() {
  const {version, hovered, pinned} = state;
  return hovered ?? pinned ?? (version && !version.closed && version.data.text.length ? version.data.text.length - 1 : null);
}

function paintDetail() {
  const i = shownToken(), pinned = i !== null && i === state.pinned;
  const key = `${state.version?.id} ${state.version?.painted} ${i} ${pinned}`;
  if (key === state.detail) return;
  state.detail = key;
  const focus = side.contains(document.activeElement) ? document.activeElement.getAttribute('aria-label') : null;
  inspector.show(state.version, i, pinned, {step: way => step(way), release: () => pin(state.version, state.pinned)});
  if (focus) [...side.querySelectorAll('[aria-label]')].find(n => n.getAttribute('aria-label') === focus && !n.disabled)?.focus();
  root.classList.toggle('sheet', state.pinned !== null);
}

/** Keep the end of the newest reply in sight, until the visitor scrolls away. */
function followEnd() {
  const turn = state.turns.at(-1);
  if (!turn || !open().length) return;
  if (log.scrollHeight > log.clientHeight + 4) log.scrollTop = turn.grid ? log.scrollTop : log.scrollHeight;
  const end = turn.node.getBoundingClientRect(), bar = $('.mpd-bar-line').offsetHeight + 16;
  if (!phone.matches) return;
  if (end.bottom > window.innerHeight - bar) window.scrollBy(0, end.bottom - window.innerHeight + bar);
  else if (end.top < 0 || end.top > window.innerHeight * 0.5) window.scrollBy(0, end.top - 12);
}
for (const kind of ['wheel', 'touchmove']) window.addEventListener(kind, () => { state.follow = false; }, {passive: true});

// ---- one token: hover, pin, move

function activate(version) {
  if (state.version === version) return;
  clearMarks();
  state.version = version;
  const turn = version && turnOf(version);
  if (turn && turn.version !== version) turn.show(turn.versions.indexOf(version));
}

function clearMarks() {
  for (const kind of ['hovered', 'pinned']) setMark(kind, null);
}

/** Keep the class of the hovered or pinned token in step with the state. */
function setMark(kind, i) {
  const tokens = state.version?.strip.tokens ?? [];
  tokens[state[kind]]?.classList.remove(kind);
  if (kind === 'pinned') tokens[state.pinned]?.setAttribute('aria-pressed', 'false');
  state[kind] = i;
  tokens[i]?.classList.add(kind);
  if (kind === 'pinned') tokens[i]?.setAttribute('aria-pressed', 'true');
}

function hover(version, i) {
  if (i !== null && version !== state.version) return;  // another version wakes by a click
  if (state.hovered === i) return;
  setMark('hovered', i);
  paintDetail();
  map.mark(state);
}

function pin(version, i, fromMap = false) {
  if (!version) return;
  if (version !== state.version) { activate(version); repaint(); }
  setMark('hovered', null);
  setMark('pinned', state.pinned === i ? null : i);
  state.detail = '';
  paintDetail();
  map.mark(state);
  if (state.pinned === null) return;
  map.reveal(state.pinned);
  if (fromMap || !wide.matches) inSight(version.strip.tokens[state.pinned]);
}

function step(way) {
  const i = state.pinned + way, {version} = state;
  if (!version || i < 0 || i >= version.strip.tokens.length) return;
  pin(version, i, true);
}

/** Scroll a token into view, above the sheet that covers the lower half of a small screen. */
function inSight(token) {
  token.scrollIntoView({block: 'nearest'});
  if (wide.matches) return;
  const lowest = side.getBoundingClientRect().top - 12, box = token.getBoundingClientRect();
  if (box.bottom > lowest) window.scrollBy(0, box.bottom - lowest);
}

function find(target) {
  const token = target.closest?.('.tok');
  const version = token && versions().find(v => v.strip.node.contains(token));
  return version ? {version, i: Number(token.dataset.i)} : null;
}

log.addEventListener('pointerover', e => { const t = e.pointerType === 'mouse' && find(e.target); if (t) hover(t.version, t.i); });
log.addEventListener('pointerout', e => { if (find(e.target)) hover(state.version, null); });
log.addEventListener('focusin', e => { const t = find(e.target); if (t && t.i !== state.pinned) hover(t.version, t.i); });
log.addEventListener('focusout', e => { if (find(e.target)) hover(state.version, null); });
log.addEventListener('click', e => {
  const chosen = window.getSelection();
  if (!chosen.isCollapsed && log.contains(chosen.anchorNode)) return;  // text was selected, nothing pressed
  let token = find(e.target);
  const strip = e.target.closest('.strip');
  if (!token && strip && e.pointerType === 'touch') {
    const version = versions().find(v => v.strip.node === strip), i = version.strip.nearest(e.clientX, e.clientY);
    token = i < 0 ? null : {version, i};
  }
  if (token) pin(token.version, token.i);
});
log.addEventListener('keydown', e => {
  const token = find(e.target);
  if (!token || e.ctrlKey || e.metaKey || e.altKey) return;
  const next = token.version.strip.neighbour(token.i, e.key);
  if (next >= 0) token.version.strip.focus(next);
  else if (e.key === 'Enter' || e.key === ' ') pin(token.version, token.i);
  else return;
  e.preventDefault();
});

/** Keys that work anywhere on the page; the listener goes when the page's picture goes. */
function pageKeys(e) {
  if (!element.isConnected) return document.removeEventListener('keydown', pageKeys);
  if (e.key === 'Escape' && state.pinned !== null && !document.querySelector('dialog[open]')) pin(state.version, state.pinned);
  if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) document.querySelector('#run')?.click();
}
document.addEventListener('keydown', pageKeys);

// ---- tools

function relook(changes) {
  Object.assign(state.look, changes);
  for (const version of versions()) version.recolour(state.look);
  for (const turn of state.turns) turn.stale = true;
  keep('localStorage', 'mpd-look', JSON.stringify(state.look));
  showLook();
  repaint();
}

function showLook() {
  $('.mpd-mode').value = state.look.mode;
  $('.mpd-unit').value = state.look.unit;
  for (const button of root.querySelectorAll('.mpd-views button')) button.setAttribute('aria-pressed', String(button.dataset.view === state.look.view));
}

$('.mpd-mode').append(...Object.entries(COLOURINGS).map(([name, way]) => {
  const option = make('option', '', way.label);
  option.value = name;
  return option;
}));
$('.mpd-mode').addEventListener('change', e => relook({mode: e.target.value}));
$('.mpd-unit').addEventListener('change', e => relook({unit: e.target.value}));
for (const button of root.querySelectorAll('.mpd-views button')) button.addEventListener('click', () => relook({view: button.dataset.view}));
$('.mpd-marks').addEventListener('change', e => root.classList.toggle('marks', e.target.checked));
$('.mpd-stop').addEventListener('click', () => document.querySelector('#stop').click());
$('.mpd-explore').addEventListener('click', () => explore($('.mpd-dialog'), props.plotly, state.version.data, map.layer, fileName(state.version, '')));
new MutationObserver(() => { map.theme(); map.paint(); }).observe(document.body, {attributeFilter: ['class']});

// ---- controls

/** Change the controls' values; Gradio asks for them at once. */
function fill(change) {
  state.fill = change;
  trigger('fill', {});
}

window.mpdStudio = {
  ask,
  openRuns() {
    const ids = state.stopping.length ? state.stopping : open().map(version => version.id);
    state.stopping = [];
    return JSON.stringify(ids);
  },
  missing: () => JSON.stringify([...state.fetch]),
  forget() {
    stopAll();
    for (const turn of state.turns) turn.node.remove();
    activate(null);
    Object.assign(state, {turns: [], editing: null, detail: null, last: {prompt: null, at: 0}});
    notice('');
    saveAndPaint();
  },
  remember: (...values) => { keep('sessionStorage', 'mpd-draft', JSON.stringify(form.read(values))); },
  wanted(...values) {
    const now = form.read(values), change = state.fill;
    state.fill = null;
    return form.write(change ? change(now) : now);
  },
  async restore() {
    const link = form.fromLink(location.search), draft = JSON.parse(recall('sessionStorage', 'mpd-draft') ?? 'null');
    const fresh = link && recall('sessionStorage', 'mpd-link') !== location.search;
    if (link) keep('sessionStorage', 'mpd-link', location.search);
    await restoreTurns();
    setTimeout(() => { state.ready = true; repaint(); }, 50);  // Gradio takes the values first
    const typed = document.querySelector('#prompt textarea')?.value ?? '';  // by someone who did not wait
    if (!fresh) {
      const kept = sound(draft) ? draft : form.defaults();
      return form.write(typed.trim() ? {...kept, prompt: typed} : kept);
    }
    if (link.problems.length) notice(`The link asks for what is not here and was left out: ${link.problems.join(', ')}.`);
    if (link.run) setTimeout(() => document.querySelector('#run').click(), 100);
    return form.write(link.form);
  },
  mount: mountControls,
};

/** Whether a draft fits this pack: the browser may remember another's. */
function sound(draft) {
  return Boolean(draft) && typeof draft.prompt === 'string' && form.isCode(draft.preference ?? '')
    && pack.settings.every(({name, choices}) => name in (draft.settings ?? {}) && (!choices.length || choices.includes(draft.settings[name])));
}

async function restoreTurns() {
  for (const saved of await store.load()) {
    const turn = addTurn();
    for (const record of saved.versions) turn.add(Version.restored(pack, form, record, actions));
    Object.assign(turn, {grid: saved.grid});
    turn.show(saved.active);
  }
  awaitEnds(open());
  activate(state.turns.at(-1)?.version ?? null);
  repaint();
}

/** Replies that were being written when the page went: ask the server how far they came. */
function awaitEnds(orphans) {
  const left = orphans.filter(version => !version.closed && versions().includes(version));
  if (!left.length) return;
  for (const version of left) missing(version, 200);
  setTimeout(() => awaitEnds(left), 2500);
}

function mountControls(node) {
  const pick = selector => node.querySelector(selector), columns = new Columns(pick('.mpd-columns'), form, pack);
  const every = pick('.mpd-every'), file = pick('input[type=file]'), panel = pick('.mpd-compare'), opener = pick('.mpd-compare-open');
  every.hidden = pack.every < 2;
  every.textContent = `All ${pack.every === 8 ? 'eight' : pack.every}`;
  every.title = `The same instruction under all ${pack.every} preferences, side by side`;
  every.addEventListener('click', () => askFor({replies: form.every().map(preference => ({preference}))}));
  opener.addEventListener('click', () => {
    panel.hidden = !panel.hidden;
    opener.setAttribute('aria-expanded', String(!panel.hidden));
    const draft = JSON.parse(recall('sessionStorage', 'mpd-draft') ?? 'null');
    columns.start(sound(draft) && !draft.preference.includes('-') ? draft.preference : form.defaults().preference);
  });
  pick('.mpd-column-add').addEventListener('click', () => columns.add());
  pick('.mpd-compare-run').addEventListener('click', () => {
    askFor({replies: columns.chosen().map(({method, preference}) => ({preference, settings: {method}}))});
  });
  pick('.mpd-open').addEventListener('click', () => file.click());
  file.addEventListener('change', () => { if (file.files[0]) openFile(file.files[0]); file.value = ''; });
  pick('#examples').hidden = pack.examples.length === 0;
  pick('.gallery').append(...pack.examples.map(([prompt, preference]) => makeButton(
    `${form.chosen(preference).map(pole => pole.glyph).join('')} ${prompt}`, '', () => example(prompt, preference))));
}

/** An example takes the place of what was typed, which can be had back. */
function example(prompt, preference) {
  fill(now => {
    const own = now.prompt.trim() !== '' && !pack.examples.some(([text]) => text === now.prompt);
    if (own) notice('The example took the place of your instruction.', 'Undo', () => { fill(() => now); notice(''); });
    return {...now, prompt, preference};
  });
}

const notes = [...props.notes];
if (!props.trained) {
  notes.unshift('The weights of this pack are untrained and therefore uniform: with method MPD every '
    + 'expert weighs the same. Colours show which expert is the most confident about a token.');
}
$('.mpd-notes').hidden = notes.length === 0;
$('.mpd-notes').replaceChildren(...notes.map(note => make('li', '', note)));
legend($('.mpd-all'), pack.dimensions.flatMap(dimension => dimension.poles));
try { Object.assign(state.look, JSON.parse(recall('localStorage', 'mpd-look') ?? '{}')); } catch { /* not ours */ }
if (!COLOURINGS[state.look.mode]) state.look.mode = 'weight';
showLook();

window.addEventListener('pagehide', () => store.now(state.turns));
watch('value', () => take(props.value));
repaint();
