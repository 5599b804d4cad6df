// The map of experts (rows) by tokens (columns), on a canvas: cheap enough to grow with the stream.

const MOST_COLUMNS = 512, LEAST_COLUMN = 4, MOST_COLUMN = 40, ROW = 26, TICKS = 78, TICK_STEP = 15;

class TokenMap {
  constructor(figure, events) {
    this.figure = figure;
    this.node = figure.querySelector('.mpd-heat');
    this.canvas = figure.querySelector('canvas');
    this.layer = 'deviation';
    this.start = null;  // first token of the window; null follows the end
    this.data = null;
    this.marks = {hovered: null, pinned: null};
    const layers = figure.querySelector('.mpd-layer');
    layers.append(...Object.entries(LAYERS).map(([name, {label}]) => choiceOf(name, label)));
    layers.addEventListener('change', e => { this.layer = e.target.value; this.paint(); });
    figure.querySelector('.mpd-earlier').addEventListener('click', () => this.move(-1));
    figure.querySelector('.mpd-later').addEventListener('click', () => this.move(1));
    this.canvas.addEventListener('pointermove', e => events.hover(this.column(e)));
    this.canvas.addEventListener('pointerleave', () => events.hover(null));
    this.canvas.addEventListener('click', e => { const i = this.column(e); if (i !== null) events.pin(i); });
    // Asked for at each painting, the width would have the browser lay the page out twice a frame.
    new ResizeObserver(() => {
      if (this.width === this.node.clientWidth) return;
      this.width = this.node.clientWidth;
      this.paint();
    }).observe(this.node);
  }

  /** Colours and font of the theme; read again only when it changes. */
  theme() {
    const css = getComputedStyle(this.node), name = n => css.getPropertyValue(n).trim();
    const ramp = (...names) => blended(names.map(n => channels(name(n))));
    const ramps = {plain: ramp('--mpd-heat-0', '--mpd-heat-1', '--mpd-heat-2'), around: ramp('--mpd-below', '--mpd-heat-0', '--mpd-heat-2')};
    this.look = {...ramps, ink: css.color, soft: name('--mpd-soft'), family: css.fontFamily};
  }

  show(data) {
    if (this.data !== data) this.start = null;
    this.data = data;
    this.paint();
  }

  /** How wide a column may be, and which tokens fit; the pen tells how wide names are. */
  measure(pen) {
    const data = this.data, count = data.text.length, narrow = this.width < 520;
    pen.font = `12px ${this.look.family}`;
    this.left = narrow ? 24 : 14 + Math.ceil(Math.max(0, ...data.experts.map(e => pen.measureText(rowName(e)).width)));
    const room = Math.max(60, this.width - this.left - 4);
    const shown = Math.min(count, MOST_COLUMNS, Math.floor(room / LEAST_COLUMN));
    this.step = Math.min(MOST_COLUMN, room / Math.max(1, shown));
    const last = Math.max(0, count - shown), first = this.start === null ? last : Math.min(this.start, last);
    this.range = [first, first + shown];
    this.narrow = narrow;
  }

  move(way) {
    const [from, to] = this.range, half = Math.max(1, Math.floor((to - from) / 2));
    this.start = Math.max(0, from + way * half);
    if (this.start + (to - from) >= this.data.text.length) this.start = null;
    this.paint();
  }

  /** Bring a token into the window. */
  reveal(i) {
    const [from, to] = this.range ?? [0, 0];
    if (!this.data || (i >= from && i < to)) return;
    this.start = Math.max(0, i - Math.floor((to - from) / 2));
    this.paint();
  }

  paint() {
    const data = this.data, empty = !data || data.text.length === 0;
    this.figure.hidden = empty;
    if (empty) return;
    if (!this.look) this.theme();
    this.width ||= this.node.clientWidth;
    const pen = this.canvas.getContext('2d');
    this.measure(pen);
    const height = ROW * data.experts.length + TICKS, scale = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(this.width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(this.width * scale);
      this.canvas.height = Math.round(height * scale);
      this.canvas.style.height = `${height}px`;
    }
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, this.width, height);
    this.cells(pen, data);
    this.labels(pen, data);
    this.outline(pen, data);
    this.caption(data.text.length);
  }

  cells(pen, data) {
    const [from, to] = this.range, gap = this.step > 7 ? 1 : 0, layer = layerOf(data, this.layer);
    const low = layer.low(data), width = layer.high(data) - low, ramp = layer.around ? this.look.around : this.look.plain;
    for (let i = from; i < to; i++) {
      const x = this.left + (i - from) * this.step;
      layer.of(data, i).forEach((value, k) => {
        pen.fillStyle = ramp[Math.round(64 * Math.max(0, Math.min(1, ((value ?? low) - low) / width)))];
        pen.fillRect(x, k * ROW + 1, this.step - gap + (gap ? 0 : 0.5), ROW - 2);
      });
    }
  }

  labels(pen, data) {
    const [from, to] = this.range;
    pen.fillStyle = this.look.ink;
    pen.textBaseline = 'middle';
    pen.textAlign = 'right';
    pen.font = `12px ${this.look.family}`;
    data.experts.forEach((e, k) => {
      pen.fillText(this.narrow ? e.glyph : rowName(e), this.left - 8, k * ROW + ROW / 2);
    });
    pen.font = `11px ${this.look.family}`;
    pen.fillStyle = this.look.soft;
    const every = Math.max(1, Math.ceil(TICK_STEP / this.step));
    for (let i = from; i < to; i++) {
      if (i % every !== 0) continue;
      pen.save();
      pen.translate(this.left + (i - from + 0.5) * this.step, data.experts.length * ROW + 6);
      pen.rotate(-Math.PI / 2);
      pen.fillText(tickOf(pen, data.text[i], i + 1), 0, 0);
      pen.restore();
    }
  }

  /** The hovered and the pinned column. */
  outline(pen, data) {
    const [from, to] = this.range;
    for (const [i, dash] of [[this.marks.pinned, []], [this.marks.hovered, [2, 2]]]) {
      if (i === null || i < from || i >= to) continue;
      pen.setLineDash(dash);
      pen.strokeStyle = this.look.ink;
      pen.lineWidth = 2;
      pen.strokeRect(this.left + (i - from) * this.step - 0.5, 1, Math.max(3, this.step), data.experts.length * ROW - 2);
    }
    pen.setLineDash([]);
  }

  mark({hovered, pinned}) {
    this.marks = {hovered, pinned};
    Object.assign(this.node.dataset, {hovered: hovered ?? '', pinned: pinned ?? ''});
    this.paint();
  }

  caption(count) {
    const [from, to] = this.range, note = this.figure.querySelector('.mpd-window');
    note.hidden = to - from >= count;
    note.querySelector('.mpd-range').textContent = `tokens ${from + 1}–${to} of ${count}`;
    this.figure.querySelector('.mpd-earlier').disabled = from === 0;
    this.figure.querySelector('.mpd-later').disabled = to === count;
    const {name, around, ends} = layerOf(this.data, this.layer), ramp = this.figure.querySelector('.mpd-ramp');
    ramp.classList.toggle('around', Boolean(around));
    ends(this.data).forEach((text, k) => { if (ramp.querySelectorAll('span')[k].textContent !== text) ramp.querySelectorAll('span')[k].textContent = text; });
    this.offer(name);
    Object.assign(this.node.dataset, {columns: to - from, start: from, rows: this.data.experts.length});
  }

  /** What may be chosen, and what is shown; a layer that says nothing of this reply says why. */
  offer(shown) {
    const list = this.figure.querySelector('.mpd-layer');
    for (const option of list.options) {
      const {label, idle} = LAYERS[option.value], why = idle(this.data), words = why ? `${label}: ${why}` : label;
      if (option.textContent !== words) Object.assign(option, {textContent: words, disabled: why !== ''});
    }
    if (list.value !== shown) list.value = shown;
  }

  /** The token under a pointer, or null. */
  column(event) {
    if (!this.data || !this.range) return null;
    const box = this.canvas.getBoundingClientRect(), [from, to] = this.range;
    const i = from + Math.floor((event.clientX - box.left - this.left) / this.step);
    return i >= from && i < to && event.clientY - box.top < this.data.experts.length * ROW ? i : null;
  }
}

function rowName({name, glyph}) {
  return `${shorten(name, 16)} ${glyph}`;
}

/** A token and its place, cut to the height that ticks have. */
function tickOf(pen, text, place) {
  for (let length = 9; ; length--) {
    const tick = `${tokenTick(text, length)} ${place}`;
    if (length === 1 || pen.measureText(tick).width <= TICKS - 8) return tick;
  }
}

/** 65 colours through three. */
function blended([low, middle, high]) {
  const blend = (a, b, share) => a.map((v, k) => Math.round(v + (b[k] - v) * share));
  return Array.from({length: 65}, (_, k) => `rgb(${k <= 32 ? blend(low, middle, k / 32) : blend(middle, high, (k - 32) / 32)})`);
}

/** A hex colour's three channels, 0 to 255. */
function channels(hex) {
  return [1, 3, 5].map(k => parseInt(hex.slice(k, k + 2), 16));
}
