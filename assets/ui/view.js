// The picture: takes frames from the server, keeps the turns, links strip, map and detail.
// Runs as the body of Gradio's js_on_load, with element, props, watch and trigger in scope.
// Attributes for tests: data-run, data-count, data-done, data-status on the root.

const $ = selector => element.querySelector(selector);
const root = $('.mpd'), log = $('.mpd-log'), modeBox = $('.mpd-mode');

const state = {
  chat: '', left: new Set(), turns: [], active: -1,  // active: the turn that map, detail and summary show
  hovered: null, pinned: null,      // token indices within the active turn
  mode: props.trained ? 'weight' : 'keenest',
};
const current = () => state.turns[state.active];
const heatmap = new Heatmap($('.mpd-figure'), props.plotly, {
  hover: i => hover(state.active, i),
  pin: i => pin(state.active, i),
});

// ---- frames

function take(frame) {
  if (!frame || state.left.has(frame.chat)) return;  // a late frame of an older chat
  if (frame.chat !== state.chat) reset(frame.chat);
  if (frame.turn >= 0) takeTurn(frame);
  notice(frame.status === 'refused' ? frame.message : '');
}

function takeTurn(frame) {
  let turn = state.turns.find(t => t.data.run === frame.run);
  if (turn && turn.closed) return;  // a late frame of a reply that was stopped
  if (frame.status === 'refused') { if (turn) drop(turn); return; }
  if (!turn) turn = addTurn(frame);
  turn.data = frame;
  turn.dirty = true;
  turn.closed = frame.status === 'done' || frame.status === 'failed';
}

function reset(chat) {
  if (state.chat) state.left.add(state.chat);
  for (const turn of state.turns) turn.node.remove();
  Object.assign(state, {chat, turns: [], active: -1, hovered: null, pinned: null});
}

function drop(turn) {
  turn.node.remove();
  state.turns = state.turns.filter(t => t !== turn);
  activate(state.turns.length - 1);
}

/** Append a turn: what was asked, and an empty strip. */
function addTurn(frame) {
  const node = make('article', 'mpd-turn');
  const asked = make('div', 'mpd-asked');
  const tags = make('ul', 'mpd-legend mpd-tags');
  legend(tags, frame.asked);
  asked.append(make('p', 'mpd-prompt', frame.prompt), tags);
  const strip = make('div', 'strip');
  strip.setAttribute('role', 'group');
  strip.setAttribute('aria-label', `Tokens of reply ${frame.turn + 1}`);
  strip.dataset.run = frame.run;
  node.append(asked, strip, make('p', 'mpd-end'));
  log.append(node);
  const turn = {data: frame, node, strip: new Strip(strip), dirty: true, closed: false};
  state.turns.push(turn);
  activate(state.turns.length - 1);
  log.scrollTop = log.scrollHeight;
  if (root.getBoundingClientRect().top > window.innerHeight * 0.6) root.scrollIntoView();  // a phone
  return turn;
}

/** Busy or not, in words for everyone and for the buttons' looks. */
function announce(turn) {
  root.dataset.busy = Boolean(turn && !turn.closed);
  if (!turn) return status('');
  const {status: now, summary, text} = turn.data;
  if (now === 'waiting') status('The experts are reading your instruction…');
  else if (now === 'streaming') status('Writing…');
  else status(now === 'done' ? `Reply ${FINISH[summary.finish] ?? 'done'}, ${text.length} tokens.` : '');
}

function status(text) {
  if ($('.mpd-status').textContent !== text) $('.mpd-status').textContent = text;
}

function notice(text) {
  const box = $('.mpd-notice');
  if (box.textContent === text) return;
  box.textContent = text;
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
  const stuck = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  for (const turn of state.turns) if (turn.dirty) paintTurn(turn);
  if (stuck) log.scrollTop = log.scrollHeight;
  const turn = current();
  $('.mpd-empty').hidden = state.turns.length > 0;
  $('.mpd-tools').hidden = !turn || turn.data.text.length === 0;
  legend($('.mpd-current'), turn?.data.experts ?? [], turn?.data.summary.means);
  paintDetail();
  if (turn) heatmap.show(turn.data); else { heatmap.data = null; heatmap.paint(); }
  summarise($('.mpd-summary'), turn?.data);
  announce(state.turns.at(-1));
  mark(state.turns.at(-1));
}

/** Attributes that tests wait for; all of them change together, with what is painted. */
function mark(turn) {
  Object.assign(element.dataset, {
    run: turn?.data.run ?? '',
    status: turn?.data.status ?? 'idle',
    count: turn?.strip.tokens.length ?? 0,
    done: !turn || turn.closed,
  });
}

function paintTurn(turn) {
  turn.dirty = false;
  turn.strip.grow(turn.data, state.mode);
  turn.node.dataset.status = turn.data.status;
  const end = turn.node.querySelector('.mpd-end');
  const stopped = turn.data.status === 'done' && turn.data.summary.finish === 'cancelled';
  const cut = turn.data.status === 'done' && turn.data.summary.finish === 'length';
  end.textContent = turn.data.message || (stopped ? 'Stopped.' : cut ? 'Cut at the limit of new tokens.' : '');
}

function paintDetail() {
  const i = state.hovered ?? state.pinned;
  detail($('.mpd-detail'), current()?.data, i, i !== null && i === state.pinned);
}

// ---- one token: hover, pin, move

function activate(index) {
  if (state.active === index) return;
  clearMarks();
  Object.assign(state, {active: index, hovered: null, pinned: null});
}

function clearMarks() {
  for (const kind of ['hovered', 'pinned']) setMark(kind, null);
}

/** Keep the class of the hovered or pinned token in step with the state. */
function setMark(kind, i) {
  const tokens = current()?.strip.tokens ?? [];
  tokens[state[kind]]?.classList.remove(kind);
  if (kind === 'pinned') tokens[state.pinned]?.setAttribute('aria-pressed', 'false');
  state[kind] = i;
  tokens[i]?.classList.add(kind);
  if (kind === 'pinned') tokens[i]?.setAttribute('aria-pressed', 'true');
}

function hover(index, i) {
  if (i !== null && index !== state.active) return;  // an older turn wakes by a click
  if (state.hovered === i) return;
  setMark('hovered', i);
  paintDetail();
  heatmap.mark(state);
}

function pin(index, i) {
  if (index !== state.active) { activate(index); repaint(); }
  setMark('pinned', state.pinned === i ? null : i);
  if (state.pinned !== null) heatmap.reveal(state.pinned);
  paintDetail();
  heatmap.mark(state);
  trigger('pin', {run: current().data.run, i: state.pinned});
}

function find(target) {
  const button = target.closest?.('.tok');
  if (!button) return null;
  const index = state.turns.findIndex(t => t.strip.node.contains(button));
  return index < 0 ? null : {index, i: Number(button.dataset.i), strip: state.turns[index].strip};
}

log.addEventListener('pointerover', e => { const t = find(e.target); if (t) hover(t.index, t.i); });
log.addEventListener('pointerout', e => { if (find(e.target)) hover(state.active, null); });
log.addEventListener('focusin', e => { const t = find(e.target); if (t) hover(t.index, t.i); });
log.addEventListener('focusout', e => { if (find(e.target)) hover(state.active, null); });
log.addEventListener('click', e => { const t = find(e.target); if (t) pin(t.index, t.i); });
log.addEventListener('keydown', e => {
  const token = find(e.target);
  if (!token || e.ctrlKey || e.metaKey || e.altKey) return;
  const next = token.strip.neighbour(token.i, e.key);
  if (next < 0) return;
  e.preventDefault();
  token.strip.focus(next);
});

// ---- controls

modeBox.value = state.mode;
modeBox.addEventListener('change', () => {
  state.mode = modeBox.value;
  for (const turn of state.turns) turn.strip.recolour(turn.data, state.mode);
  $('.mpd-scale').textContent = SCALES[state.mode] ?? '';
  $('.mpd-scale').hidden = !SCALES[state.mode];
  $('.mpd-current').hidden = Boolean(SCALES[state.mode]);
});
$('.mpd-marks').addEventListener('change', e => root.classList.toggle('marks', e.target.checked));

/** Keys that work anywhere on the page; the listener goes when the picture goes. */
function pageKeys(e) {
  if (!element.isConnected) return document.removeEventListener('keydown', pageKeys);
  if (e.key === 'Escape' && state.pinned !== null) pin(state.active, state.pinned);
  if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) document.querySelector('#run')?.click();
}
document.addEventListener('keydown', pageKeys);
new MutationObserver(() => heatmap.paint()).observe(document.body, {attributeFilter: ['class']});

const notes = [...props.notes];
if (!props.trained) {
  notes.unshift('The weights of this pack are untrained and therefore uniform: with method MPD every '
    + 'expert weighs the same. Colours show which expert finds a token likeliest (“keenest expert”).');
}
$('.mpd-notes').hidden = notes.length === 0;
$('.mpd-notes').replaceChildren(...notes.map(note => make('li', '', note)));
legend($('.mpd-all'), props.poles);

watch('value', () => { take(props.value); repaint(); });
take(props.value);
repaint();
