// The Vote page: an anonymous cookie for the rater, and keys. 1, 2 and 0 answer the next open row,
// Enter goes on; an answer is changed with the pointer or the arrow keys.
const COOKIE = 'mpd_rater';

const fresh = () => Array.from(crypto.getRandomValues(new Uint8Array(16)),
  byte => byte.toString(16).padStart(2, '0')).join('');

const rater = () => {
  const found = document.cookie.match(/(?:^|; )mpd_rater=([0-9a-f]{32})(?:;|$)/);
  const name = found ? found[1] : (window.mpdRater ?? fresh());
  window.mpdRater = name;  // where cookies are switched off: for this visit
  const where = location.protocol === 'https:' ? 'SameSite=None; Secure; Partitioned' : 'SameSite=Lax';
  document.cookie = `${COOKIE}=${name}; path=/; max-age=31536000; ${where}`;
  return name;
};
window.mpdVote = {rater};

const rows = () => [...document.querySelectorAll('#vote-rows fieldset')]
  .filter(row => row.offsetParent !== null);
const inputs = row => [...row.querySelectorAll('input')];
const open = row => !row.querySelector('input:checked');

// What was chosen for the pair on the page, by row. The page's framework may draw the rows of a new
// pair a moment after its texts and so take back a choice made in between; then it is made again,
// so that no later key lands in a row that only looks open.
const chosen = new Map();
const HOLD_MS = 2000, EVERY_MS = 50, NEXT_MS = 5000;
let until = 0, holding = null, asked = 0;

const mark = () => {
  joinRadios();
  const next = rows().find((row, i) => open(row) && !chosen.has(i));
  for (const row of rows()) row.classList.toggle('mpd-row-next', row === next);
  for (const text of document.querySelectorAll('textarea:not([dir=auto])')) text.dir = 'auto';  // replies in any script
};
const hold = () => {
  rows().forEach((row, i) => {
    const input = inputs(row)[chosen.get(i)];
    if (input && !input.checked) input.click();
  });
  mark();
  clearTimeout(holding);  // one chain, whoever called
  if (Date.now() < until) holding = setTimeout(hold, EVERY_MS);
};
const choose = (i, place) => {
  chosen.set(i, place);
  until = Date.now() + HOLD_MS;
  hold();
};
// Between Next and the new pair no key counts: it would judge what nobody has read yet.
const waiting = () => {
  if (asked && (Date.now() - asked > NEXT_MS || rows().every(open))) asked = 0;
  return asked > 0;
};
const goOn = () => {
  const all = rows();
  if (all.length && !all.some(open)) asked = Date.now();
  chosen.clear();
  clearTimeout(holding);
};

document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  const target = event.target;
  if (target.matches?.('textarea:not([disabled]), input:not([type=radio]), [contenteditable=true]')) return;
  const place = {1: 0, 0: 1, 2: 2}[event.key];
  if (place !== undefined && rows().length) {
    const next = rows().findIndex((row, i) => open(row) && !chosen.has(i));
    if (!waiting() && next >= 0) choose(next, place);
  } else if (event.key === 'Enter' && !target.closest?.('button, a')) {
    if (!waiting()) document.querySelector('#vote-next button, button#vote-next')?.click();
  } else {
    return;
  }
  event.preventDefault();
});
document.addEventListener('click', event => {
  if (event.target.closest?.('#vote-next')) goOn();
}, true);
document.addEventListener('change', event => {
  const i = rows().findIndex(row => row.contains(event.target));
  if (i >= 0) chosen.set(i, inputs(rows()[i]).indexOf(event.target));
  setTimeout(mark, 0);
});
new MutationObserver(mark).observe(document.body, {childList: true, subtree: true, attributeFilter: ['name']});
mark();
