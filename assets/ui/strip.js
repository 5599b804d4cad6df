// One reply as a strip of token buttons. Buttons are only ever appended, then recoloured.

/** How a token is drawn: colour slot (or none), strength 0..1, and a glyph that says the same. */
const COLOURINGS = {
  weight: (d, i) => expertLook(d, i, leader(d.weight[i]), d.weight[i]),
  keenest: (d, i) => expertLook(d, i, leader(d.chance[i]), d.chance[i]),
  probability: (d, i) => levelLook(d.probability[i], 1),
  entropy: (d, i) => levelLook(d.entropy[i], 6),
  disagreement: (d, i) => levelLook(d.disagreement[i], Math.LN2),
};
const SCALES = {
  probability: 'Probability of the token in the merged distribution: ▁ 0 to █ 1',
  entropy: 'Entropy of the merged distribution: ▁ 0 to █ 6 nats and more',
  disagreement: 'Jensen-Shannon divergence of the experts: ▁ 0 to █ 0.69 nats and more',
};

function expertLook(data, i, best, values) {
  if (best < 0) return {slot: '', strength: 0, glyph: '='};
  const expert = data.experts[best];
  return {slot: expert.slot, strength: values[best], glyph: expert.glyph};
}

function levelLook(value, most) {
  const share = Math.max(0, Math.min(1, (value ?? 0) / most));
  return {slot: 'level', strength: share, glyph: LEVELS[Math.round(share * (LEVELS.length - 1))]};
}

class Strip {
  constructor(node) {
    this.node = node;
    this.tokens = [];
    this.word = null;
    this.before = '';
  }

  /** Append the tokens that are not there yet. */
  grow(data, mode) {
    for (let i = this.tokens.length; i < data.text.length; i++) {
      const {lead, core, tail} = splitToken(data.text[i]);
      if (lead) this.node.append(lead);
      if (!this.word || lead || !sameWord(this.before, core)) {
        this.word = make('span', 'mpd-word');
        this.node.append(this.word);
      }
      const button = this.button(data.text[i], core, tail, i);
      button.dataset.lead = '·'.repeat(lead.length);
      this.word.append(button);
      if (tail) { this.node.append(tail); this.word = null; }
      this.before = tail ? '\n' : core;
      this.tokens.push(button);
      this.colour(data, mode, i);
    }
  }

  button(text, core, tail, i) {
    const button = make('button', 'tok', core);
    button.type = 'button';
    button.dataset.i = i;
    button.tabIndex = i === 0 ? 0 : -1;
    button.setAttribute('aria-pressed', 'false');
    if (text.trim() === '') button.setAttribute('aria-label', tokenName(text));
    if (tail) this.mark(button);
    else if (text === '') button.dataset.ghost = '◦';
    else if (core === '') button.dataset.ghost = '␣';
    return button;
  }

  /** A visible line break, in an attribute: the strip's text stays the reply's. */
  mark(button) {
    const mark = make('span', 'mpd-break');
    mark.dataset.mark = '↵';
    button.append(mark);
  }

  colour(data, mode, i) {
    const look = COLOURINGS[mode](data, i);
    const button = this.tokens[i];
    button.dataset.slot = look.slot;
    button.dataset.glyph = look.glyph;
    button.style.setProperty('--a', look.strength.toFixed(3));
  }

  recolour(data, mode) {
    this.tokens.forEach((_, i) => this.colour(data, mode, i));
  }

  /** Roving tabindex: one token of the strip is in the tab order. */
  focus(i) {
    for (const button of this.node.querySelectorAll('.tok[tabindex="0"]')) button.tabIndex = -1;
    this.tokens[i].tabIndex = 0;
    this.tokens[i].focus({preventScroll: false});
  }

  /** The token that an arrow key leads to from token i. */
  neighbour(i, key) {
    const last = this.tokens.length - 1;
    if (key === 'ArrowRight') return Math.min(last, i + 1);
    if (key === 'ArrowLeft') return Math.max(0, i - 1);
    if (key === 'Home') return 0;
    if (key === 'End') return last;
    if (key === 'ArrowUp' || key === 'ArrowDown') return this.vertical(i, key === 'ArrowUp' ? -1 : 1);
    return -1;
  }

  /** The token above or below: nearest in the next line that way. */
  vertical(i, way) {
    const middle = box => (box.left + box.right) / 2;
    const from = this.tokens[i].getBoundingClientRect();
    let best = i, line = null, distance = Infinity;
    for (let k = i + way; k >= 0 && k < this.tokens.length; k += way) {
      const box = this.tokens[k].getBoundingClientRect();
      if (Math.abs(box.bottom - from.bottom) < 6) continue;
      line = line ?? box.bottom;
      if (Math.abs(box.bottom - line) >= 6) break;
      const gap = Math.abs(middle(box) - middle(from));
      if (gap < distance) { distance = gap; best = k; }
    }
    return best;
  }
}
