// Painting, and words for the visitor.

// ---- words for the visitor

function announce() {
  const writing = open();
  Object.assign(root.dataset, {busy: writing.length > 0, asked: !state.engine.offline && state.turns.some(turn => !turn.stored)});
  document.querySelector('#stop')?.toggleAttribute('data-busy', writing.length > 0);
  if (writing.length) {
    const tokens = sum(writing.map(v => v.data.text.length)), rate = writing.length === 1 ? writing[0].timing().rate : null;
    const started = writing.some(v => v.status === 'streaming');
    status(!started ? awaited(writing)
      : `Writing${writing.length > 1 ? ` ${writing.length} replies` : ''}… ${tokens} tokens${rate ? `, ${rate.toFixed(1)} tokens/s` : ''}`);
  } else {
    const version = state.version;
    status(!state.engine.ready && !state.engine.offline ? `The model is loading. ${state.engine.stage}`
      : version?.status === 'done' ? `Reply ${endOf(version, 'done')}.` : '');
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
  const {version} = state;
  map.show(version?.data ?? null);  // first: text on a canvas has the browser lay out whatever was written before it
  for (const turn of state.turns) {
    turn.node.classList.toggle('last', turn === state.turns.at(-1));
    if (turn.behind) turn.paint(state.look);
  }
  log.classList.toggle('grids', state.turns.some(turn => turn.grid));
  $('.mpd-empty').hidden = state.turns.some(turn => !turn.stored);
  root.classList.toggle('reading', state.look.view === 'read');
  paintDetail();
  Object.assign($('.mpd-explore'), {hidden: !props.plotly, disabled: !version?.closed});  // in its place from the start: nothing moves at the end
  paintScale();
  announce();
  mark();
}

/** Attributes that tests wait for; all of them change together, with what is painted. Done: nothing
 * is being written, and the controls have what the reply's coming meant for them. */
function mark() {
  if (!state.ready) return;
  const writing = open().length > 0, version = turnOf(state.version ?? {})?.stored ? null : state.version;
  Object.assign(element.dataset, {
    run: version?.id ?? '', status: version?.status ?? 'idle', count: version?.strip.tokens.length ?? 0, done: !writing && !state.fill && state.filling === 0,
  });
}

const READING = 'As text. “Tokens” shows which expert stands behind which word';

function paintScale() {
  const data = state.version?.data, words = !data?.text.length ? '' : state.look.view === 'read' ? READING : legendOf(data, state.look.mode);
  if ($('.mpd-scale').textContent !== words) $('.mpd-scale').textContent = words;
}

function shownToken() {
  const {version, hovered, pinned} = state;
  return hovered ?? pinned ?? (version && !version.closed && version.data.text.length ? version.data.text.length - 1 : null);
}

let later = null;
function paintDetail() {
  if (state.held.size) return;
  const i = shownToken(), pinned = i !== null && i === state.pinned;
  // A pinned token's record never changes: a slider that is being dragged must stay.
  const {version} = state, key = `${version?.id} ${pinned ? version.closed : version?.painted} ${i} ${pinned}`;
  if (key === state.detail) return;
  // Of a reply that is being written nobody reads eight tokens a second: two are enough.
  const live = version && !version.closed && state.hovered === null && !pinned, now = performance.now();
  clearTimeout(later);
  if (live && now - state.detailAt < 450) {  // and the last ones before a pause are shown, too
    later = setTimeout(paintDetail, 450 - (now - state.detailAt));
    return;
  }
  Object.assign(state, {detail: key, detailAt: now});
  const focus = side.contains(document.activeElement) ? document.activeElement.getAttribute('aria-label') : null;
  inspector.show(version, i, pinned, {step: way => step(way), release});
  if (focus) [...side.querySelectorAll('[aria-label]')].find(n => n.getAttribute('aria-label') === focus && !n.disabled)?.focus();
  root.classList.toggle('sheet', state.pinned !== null);
}

// After a frame's layout, where reading sizes costs nothing.
const grown = new ResizeObserver(() => { if (state.follow) followEnd(); });

/** Keep the end of the newest reply in sight, or leave it; what a visitor chose outlives a reload. */
function follow(on) {
  if (state.follow === on) return;
  state.follow = on;
  keep('sessionStorage', 'mpd-follow', on);
}

function followEnd() {
  const turn = state.turns.at(-1);
  if (!turn) return;
  if (!open().length) state.follow = false;  // it has ended: once more, for its last tokens and buttons
  if (log.scrollHeight > log.clientHeight + 4) log.scrollTop = turn.grid ? log.scrollTop : log.scrollHeight;
  if (!stacked.matches) return;
  const {top, bottom} = turn.node.getBoundingClientRect(), line = $('.mpd-bar-line'), lowest = aboveBar(), {from, to} = seen();
  if (bottom > lowest) scrollPage(bottom - lowest);
  else if (top < from) scrollPage(Math.max(top - from - 12, bottom - lowest));
  else if (top > (from + to) / 2) scrollPage(top - from - 12);
  const below = line.getBoundingClientRect().bottom + 8 - to;
  if (!open().length && below > 0) scrollPage(below);  // the way back to the instruction
}

/** Down to where a small screen shows the reply: the line with Stop covers what is below. */
const aboveBar = () => seen().to - $('.mpd-bar-line').offsetHeight - 16;

/** Which part of the window is seen: all of it, but where a page around this one scrolls (header.js). */
function seen() {
  const {above, below} = window.mpdSeen ?? {above: 0, below: 0};
  return {from: above, to: window.innerHeight - below};
}

function scrollPage(by) {
  if (window.mpdSeen) window.parentIFrame.scrollToOffset(0, window.mpdSeen.above + by);
  else window.scrollBy(0, by);
}

// ---- who scrolls away is not pulled back, and who comes to rest at the end follows it again

const NEAR = 24, UPWARDS = ['ArrowUp', 'PageUp', 'Home'], DOWNWARDS = ['ArrowDown', 'PageDown', 'End'];
let away = false;  // whether the end went out of sight since

function leaveEnd() {
  if (state.follow) away = false;
  follow(false);
}

function endInSight() {
  const left = state.turns.at(-1).node.getBoundingClientRect().bottom - aboveBar();
  return stacked.matches ? left <= NEAR && left > -120 : log.scrollHeight - log.clientHeight - log.scrollTop <= NEAR;
}

window.addEventListener('touchmove', leaveEnd, {passive: true});
window.addEventListener('wheel', e => { if (e.deltaY < 0 || stacked.matches) leaveEnd(); }, {passive: true});
window.addEventListener('keydown', e => {
  const leads = UPWARDS.includes(e.key) || (stacked.matches && DOWNWARDS.includes(e.key));
  if (leads && !e.target.closest?.('input, textarea, select')) leaveEnd();
});
window.addEventListener('pointerdown', e => {  // on a scroll bar
  if (e.target === document.documentElement || (e.target === log && e.offsetX > log.clientWidth)) leaveEnd();
});
for (const kind of ['scroll', 'scrollend']) {
  window.addEventListener(kind, () => {
    if (state.follow || state.pinned !== null || !open().length) return;
    const near = endInSight();
    away ||= !near;
    if (near && away && kind === 'scrollend') follow(true);  // the end of our own last scrolling does not count
  }, {capture: true, passive: true});
}
