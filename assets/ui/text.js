// Small pure helpers. Text from the model or a visitor only ever reaches textContent.

/** An element with a class and text. */
function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

/** A real button; what it does is told by `act`. */
function makeButton(label, className, act) {
  const button = make('button', className, label);
  button.type = 'button';
  if (act) button.addEventListener('click', act);
  return button;
}

/** One choice of a list. */
function choiceOf(value, label) {
  const option = make('option', '', label);
  option.value = value;
  return option;
}

/** Gradio names every radio button for itself, and anew when it changes: under one name and label a
 * group is one stop for Tab, arrow keys move within it, and a screen reader says what is chosen there. */
function joinRadios() {
  for (const [k, group] of document.querySelectorAll('fieldset').entries()) {
    const label = group.querySelector('[data-testid="block-info"]'), name = `group-${k}`;
    if (label) group.setAttribute('aria-label', label.textContent);
    for (const radio of group.querySelectorAll('input[type=radio]')) if (radio.name !== name) radio.name = name;
  }
}

/** Leading spaces, core and trailing line breaks of a token: only the core can be pressed. */
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

/** The same, short enough for a tick of the map or a cell of a table. */
function tokenTick(text, length = 12) {
  if (text === '') return '◦';
  if (text.trim() === '') return text.includes('\n') ? '↵' : '␣';
  return shorten(text.trim().replace(/\n/g, '↵'), length);
}

function shorten(text, length) {
  const letters = Array.from(text);
  return letters.length > length ? letters.slice(0, length - 1).join('') + '…' : text;
}

/** Whether two neighbours belong to one word. */
function sameWord(before, core) {
  const letter = /[\p{L}\p{N}\p{M}\p{P}]/u;
  const wide = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}、。]/u;
  const last = before.slice(-1), first = core.slice(0, 1);
  return letter.test(last) && letter.test(first) && !wide.test(last) && !wide.test(first);
}

const ENDS_SENTENCE = /[.!?…。！？]["'”’)\]]*\s*$|\n/u;

/** Where the unit (token, word or sentence) of every token begins. */
function unitStarts(text, unit) {
  const starts = [];
  text.forEach((now, i) => {
    const before = text[i - 1] ?? '';
    const joined = unit === 'word' ? sameWord(before, now) || now === ''
      : unit === 'sentence' ? !ENDS_SENTENCE.test(before) : false;
    starts.push(i > 0 && joined ? starts[i - 1] : i);
  });
  return starts;
}

/** Plotly reads a little HTML in labels: make it plain text. */
function plain(text) {
  return text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/\$/g, '&#36;');
}

function percent(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–';
  if (value > 0 && value < 0.0005) return '<0.1%';
  return `${(100 * value).toFixed(value < 0.1 ? 1 : 0)}%`;
}

function nats(value) {
  return value === null || value === undefined ? '–' : `${value.toFixed(value < 0.1 ? 3 : 2)} nats`;
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

function sum(numbers) {
  return numbers.reduce((total, value) => total + (value ?? 0), 0);
}

function saveFile(name, type, text) {
  const link = make('a');
  link.href = URL.createObjectURL(new Blob([text], {type}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
