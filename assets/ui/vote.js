// The Vote page: an anonymous cookie for the rater, and keys. 1, 2 and 0 answer the next open row,
// Backspace opens the last answered one again, Enter goes on.
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
const open = row => !row.querySelector('input:checked');
const mark = () => {
  const next = rows().find(open);
  for (const row of rows()) row.classList.toggle('mpd-next', row === next);
};
let last = null;
document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  const target = event.target;
  if (target.matches?.('textarea:not([disabled]), input:not([type=radio]), [contenteditable=true]')) return;
  const place = {1: 0, 0: 1, 2: 2}[event.key];
  const row = rows().find(open) ?? last;
  if (place !== undefined && row) {
    row.querySelectorAll('input')[place]?.click();
    last = row;
  } else if (event.key === 'Enter' && !target.closest?.('button, a')) {
    document.querySelector('#vote-next button, button#vote-next')?.click();
    last = null;
  } else {
    return;
  }
  event.preventDefault();
  setTimeout(mark, 0);
});
document.addEventListener('change', () => setTimeout(mark, 0));
new MutationObserver(mark).observe(document.body, {childList: true, subtree: true});
mark();
