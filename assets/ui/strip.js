// One reply as a strip of tokens. They are only ever appended, then recoloured. A token is an inline
// span in the role of a button: text runs through it, so that scripts join, lines break between
// words alone, right-to-left runs right to left, and a selection may begin anywhere.

const BARE = {slot: '', glyph: '', strength: 0, words: ''};  // without colouring.js it is text all the same

class Strip {
  constructor(node) {
    this.node = node;
    this.tokens = [];
    this.starts = [];
    node.dir = 'auto';
  }

  /** Append the tokens that are not there yet. */
  grow(data, mode, unit = 'token') {
    const first = this.tokens.length;
    if (first === data.text.length) return;
    const fresh = document.createDocumentFragment();
    for (let i = first; i < data.text.length; i++) {
      const {lead, core, tail} = splitToken(data.text[i]);
      const token = this.token(data.text[i], core, tail, i);
      token.dataset.lead = '·'.repeat(lead.length);
      fresh.append(...[lead, token, tail].filter(part => part !== ''));
      this.tokens.push(token);
    }
    this.node.append(fresh);
    this.starts = unitStarts(data.text, unit);
    this.colour(data, mode, this.starts[first]);
  }

  token(text, core, tail, i) {
    const token = make('span', 'tok', core);
    token.setAttribute('role', 'button');
    token.dataset.i = i;
    token.tabIndex = i === 0 ? 0 : -1;
    token.setAttribute('aria-pressed', 'false');
    if (tail) token.dataset.mark = '↵';
    else if (text === '') token.dataset.mark = '◦';
    else if (core === '') token.dataset.mark = '␣';
    return token;
  }

  /** Draw the tokens from one on; what stands beside the text lives in attributes. */
  colour(data, mode, from = 0) {
    let look = null, start = -1;
    for (let i = from; i < this.tokens.length; i++) {
      if (this.starts[i] !== start) {
        start = this.starts[i];
        let end = i + 1;
        while (end < this.tokens.length && this.starts[end] === start) end++;
        look = typeof unitLook === 'function' ? unitLook(data, mode, start, end) : BARE;
      }
      this.dress(this.tokens[i], data.text[i], look);
    }
  }

  /** What has not changed is not written: the browser would lay it out anew. */
  dress(token, text, {slot, glyph, strength, words}) {
    const share = strength.toFixed(2), worn = `${slot} ${share} ${words}`;
    if (token.worn === worn) return;
    token.worn = worn;
    if (token.dataset.slot !== String(slot)) Object.assign(token.dataset, {slot, glyph});
    if (token.share !== share) token.style.setProperty('--a', share);
    token.share = share;
    token.setAttribute('aria-label', `${tokenName(text)}, ${words}`);
  }

  recolour(data, mode, unit = 'token') {
    this.starts = unitStarts(data.text.slice(0, this.tokens.length), unit);
    this.colour(data, mode);
  }

  /** Roving tabindex: one token of the strip is in the tab order. */
  focus(i, how) {
    for (const token of this.node.querySelectorAll('.tok[tabindex="0"]')) token.tabIndex = -1;
    this.tokens[i].tabIndex = 0;
    this.tokens[i].focus(how);
  }

  /** The token that a key leads to from token i; -1 for other keys. */
  neighbour(i, key) {
    const last = this.tokens.length - 1;
    const rightToLeft = getComputedStyle(this.node).direction === 'rtl';
    if (key === (rightToLeft ? 'ArrowLeft' : 'ArrowRight')) return Math.min(last, i + 1);
    if (key === (rightToLeft ? 'ArrowRight' : 'ArrowLeft')) return Math.max(0, i - 1);
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

  /** The token nearest to a point: fingers are wider than tokens. */
  nearest(x, y) {
    let best = -1, distance = Infinity;
    this.tokens.forEach((token, i) => {
      for (const box of token.getClientRects()) {
        const dx = Math.max(box.left - x, 0, x - box.right), dy = Math.max(box.top - y, 0, y - box.bottom);
        const far = dx * dx + 9 * dy * dy;
        if (far < distance) { distance = far; best = i; }
      }
    });
    return distance < 60 * 60 ? best : -1;
  }
}
