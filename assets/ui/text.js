// Small pure helpers. Text from the model or a visitor only ever reaches textContent.

const LEVELS = '▁▂▃▄▅▆▇█';

/** An element with a class and text. */
function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

/** Leading spaces, core and trailing line breaks of a token: only the core becomes a button. */
function splitToken(text) {
  const [, lead, core, tail] = /^([ \t]*)([\s\S]*?)(\n*)$/.exec(text);
  return {lead, core, tail};
}

/** A token in words, for labels: what a reader could not see or hear gets a name. */
function tokenName(text) {
  if (text === '') return 'no text';
  if (text.trim() !== '') return text.replace(/\n/g, '↵');
  return text.includes('\n') ? 'line break' : 'space';
}

/** The same, short enough for a tick of the map. */
function tokenTick(text) {
  if (text === '') return '◦';
  if (text.trim() !== '') return text.trim().replace(/\n/g, '↵');
  return text.includes('\n') ? '↵' : '␣';
}

/** Whether two neighbours belong to one word, which must not be torn apart at a line's end. */
function sameWord(before, core) {
  const letter = /[\p{L}\p{N}\p{M}\p{P}]/u;
  const wide = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}、。]/u;
  const last = before.slice(-1), first = core.slice(0, 1);
  return letter.test(last) && letter.test(first) && !wide.test(last) && !wide.test(first);
}

/** Plotly reads a little HTML in labels: make it plain text. */
function plain(text, length) {
  const cut = Array.from(text).length > length ? Array.from(text).slice(0, length).join('') + '…' : text;
  return cut.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/\$/g, '&#36;');
}

function percent(value) {
  return value === null || value === undefined ? '–' : `${(100 * value).toFixed(value < 0.1 ? 1 : 0)}%`;
}

/** Index of the largest number; -1 where the two largest are equal: nobody leads. */
function leader(numbers) {
  let best = -1, tied = false;
  numbers.forEach((value, i) => {
    if (value === null) return;
    if (best < 0 || value > numbers[best] + 1e-4) { best = i; tied = false; }
    else if (value >= numbers[best] - 1e-4) tied = true;
  });
  return tied && numbers.length > 1 ? -1 : best;
}
