// Hovering, pinning and moving between tokens.

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
  state.detailAt = 0;
  paintDetail();
  map.mark(state);
}

function pin(version, i, fromMap = false) {
  if (!version) return;
  if (version !== state.version) { activate(version); repaint(); }
  setMark('hovered', null);
  setMark('pinned', state.pinned === i ? null : i);
  Object.assign(state, {detail: '', detailAt: 0});
  paintDetail();
  map.mark(state);
  if (state.pinned === null) return;
  follow(false);
  map.reveal(state.pinned);
  if (fromMap || !wide.matches) inSight(version.strip.tokens[state.pinned]);
}

/** Let go of the pinned token; the keyboard's focus, if in the inspector, goes back to it. */
function release() {
  const token = state.pinned, within = side.contains(document.activeElement);
  pin(state.version, token);
  if (within) state.version.strip.focus(token);
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
  if (box.bottom > lowest) scrollPage(box.bottom - lowest);
}

function find(target) {
  const token = target.closest?.('.tok');
  const version = token && versions().find(v => v.strip.node.contains(token));
  return version ? {version, i: Number(token.dataset.i)} : null;
}

// Where the mouse itself went, whatever a finger does: a page that scrolls under a still one, as a pin may do, hovers nothing.
let pointed = '';
const place = e => `${e.clientX} ${e.clientY}`;
// And what it went down on. Text that moves before it comes up, as while a reply is written, takes the
// token away from under it, and a click is then told of whatever both places have in common.
const TRAVEL = 4;
let pressed = null;
function press(e) {
  const strip = e.target.closest?.('.strip') ?? null;
  pressed = {token: find(e.target), strip, top: strip?.getBoundingClientRect().top, x: e.clientX, y: e.clientY};
  if (e.pointerType === 'mouse') loosen(pressed.token && e.target.closest('.tok'));
}
// Chromium lets no selection begin before the first letter of what takes the focus as it is pressed: a
// token takes it with the click.
let loose = null;
function loosen(token) {
  if (loose) loose.token.tabIndex = loose.index;
  loose = token ? {token, index: token.tabIndex} : null;
  token?.removeAttribute('tabindex');
}
for (const kind of ['pointerup', 'pointercancel', 'dragend']) window.addEventListener(kind, () => loosen(null), {capture: true, passive: true});
for (const kind of ['pointermove', 'pointerdown']) window.addEventListener(kind, e => { if (e.pointerType === 'mouse') pointed = place(e); }, {capture: true, passive: true});
window.addEventListener('pointerdown', press, {capture: true, passive: true});
log.addEventListener('pointerover', e => {
  const t = e.pointerType === 'mouse' && place(e) !== pointed && find(e.target);
  if (t) hover(t.version, t.i);
});
log.addEventListener('pointerout', e => { if (find(e.target)) hover(state.version, null); });
log.addEventListener('focusin', e => { const t = find(e.target); if (t && t.i !== state.pinned) hover(t.version, t.i); });
log.addEventListener('focusout', e => { if (find(e.target)) hover(state.version, null); });
/** What a click means: the token under it, or the one under a press that did not travel; null where text was selected. */
function clicked(e) {
  const press = e.detail ? pressed : null;  // 0: by a key, or a screen reader
  const still = press && Math.hypot(e.clientX - press.x, e.clientY - press.y) < TRAVEL, chosen = window.getSelection();
  const selects = !still || e.detail > 1 || e.shiftKey;
  if (selects && !chosen.isCollapsed && log.contains(chosen.anchorNode)) return null;
  const strip = still ? press.strip : e.target.closest?.('.strip'), token = still ? press.token : find(e.target);
  if (token || !strip || e.pointerType !== 'touch') return token;
  const version = versions().find(v => v.strip.node === strip);
  if (!version) return null;
  const moved = still ? strip.getBoundingClientRect().top - press.top : 0;
  const i = version.strip.nearest(e.clientX, e.clientY + moved);
  return i < 0 ? null : {version, i};
}
window.addEventListener('click', e => {
  const token = clicked(e);
  pressed = null;
  if (!token) return;
  pin(token.version, token.i);
  token.version.strip.focus(token.i, {preventScroll: true});
});

// What is pressed in the inspector stays until it comes up: a button that was replaced in between, by
// numbers of the next token or of the reply's end, would be told of no click.
side.addEventListener('pointerdown', e => state.held.set(e.pointerId, null));
window.addEventListener('click', () => {  // what it does may paint
  for (const [pointer, letGo] of state.held) if (letGo !== null) state.held.delete(pointer);
}, true);
for (const kind of ['pointerup', 'pointercancel']) window.addEventListener(kind, e => {
  if (!state.held.has(e.pointerId)) return;  // another finger's
  const letGo = setTimeout(() => {
    if (state.held.get(e.pointerId) === letGo) state.held.delete(e.pointerId);  // and not a press since
    paintDetail();
  }, 100);  // of a finger the click comes later
  state.held.set(e.pointerId, letGo);
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
  if (e.key === 'Escape' && state.pinned !== null && !document.querySelector('dialog[open]')) release();
  const command = (e.ctrlKey || e.metaKey) && !e.altKey, key = e.key.toLowerCase();
  if (command && (key === 'z' || key === 'y') && state.version && !e.target.closest?.('input, textarea, select')) {
    const turn = turnOf(state.version), way = key === 'y' || e.shiftKey ? 1 : -1;
    if (turn?.beside(way)) { actions.travel(turn, way); e.preventDefault(); }
  }
  if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) document.querySelector('#run')?.click();
}
document.addEventListener('keydown', pageKeys);
