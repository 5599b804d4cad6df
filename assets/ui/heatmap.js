// The map of experts (rows) by tokens (columns). Plotly repaints at most once a frame.

const WINDOW = 512;

class Heatmap {
  constructor(figure, source, events) {
    this.figure = figure;
    this.node = figure.querySelector('.mpd-heat');
    this.layer = 'weight';
    this.start = null;  // first token of the window; null follows the end
    this.data = null;
    this.marks = {};
    this.events = events;
    this.load(source);
    figure.querySelector('.mpd-layer').addEventListener('change', e => {
      this.layer = e.target.value;
      this.paint();
    });
    figure.querySelector('.mpd-earlier').addEventListener('click', () => this.move(-WINDOW / 2));
    figure.querySelector('.mpd-later').addEventListener('click', () => this.move(WINDOW / 2));
    new ResizeObserver(() => { if (this.width !== this.node.clientWidth) this.paint(); }).observe(this.node);
  }

  /** Plotly is large: the page does not wait for it. */
  load(source) {
    if (window.Plotly) return;
    const script = document.createElement('script');
    script.src = new URL(source, document.baseURI).href;
    script.onload = () => this.paint();
    document.head.append(script);
  }

  range() {
    const count = this.data.text.length;
    const end = Math.max(0, count - WINDOW);
    const start = this.start === null ? end : Math.min(this.start, end);
    return [start, Math.min(count, start + WINDOW)];
  }

  move(by) {
    const [start] = this.range();
    const end = Math.max(0, this.data.text.length - WINDOW);
    this.start = Math.max(0, start + by);
    if (this.start >= end) this.start = null;
    this.paint();
  }

  /** Bring a token into the window. */
  reveal(i) {
    const [start, end] = this.range();
    if (i < start || i >= end) { this.start = Math.max(0, i - WINDOW / 2); this.paint(); }
  }

  show(data) {
    if (this.data?.run !== data.run) this.start = null;
    this.data = data;
    this.paint();
  }

  paint() {
    const data = this.data;
    this.figure.hidden = !data || data.text.length === 0;
    if (!window.Plotly || this.figure.hidden) return;
    this.width = this.node.clientWidth;
    const [start, end] = this.range();
    const columns = Array.from({length: end - start}, (_, k) => start + k);
    const narrow = this.width < 560;
    Plotly.react(this.node, [this.trace(data, columns, narrow)],
      this.layout(data, columns, narrow), {displayModeBar: false, scrollZoom: false});
    this.listen();
    this.caption(start, end, data.text.length);
    this.node.dataset.columns = columns.length;
    this.node.dataset.start = start;
  }

  trace(data, columns, narrow) {
    const css = getComputedStyle(this.node);
    const colour = name => css.getPropertyValue(name).trim();
    return {
      type: 'heatmap', hoverinfo: 'none', zmin: 0, zmax: 1,
      x: columns, y: data.experts.map((_, k) => k),
      z: data.experts.map((_, k) => columns.map(i => data[this.layer][i][k])),
      colorscale: [[0, colour('--mpd-heat-0')], [0.5, colour('--mpd-heat-1')], [1, colour('--mpd-heat-2')]],
      xgap: columns.length < 120 ? 1 : 0, ygap: 2, showscale: !narrow,
      colorbar: {thickness: 8, outlinewidth: 0, tickvals: [0, 0.5, 1], tickfont: {size: 11}, len: 1, x: 1.01},
    };
  }

  layout(data, columns, narrow) {
    const css = getComputedStyle(this.node);
    const names = data.experts.map(e => narrow ? e.glyph : `${plain(e.name, 16)} ${e.glyph}`);
    const left = narrow ? 26 : 26 + 7.2 * Math.max(...data.experts.map(e => Math.min(17, e.name.length)));
    const room = Math.max(60, this.width - left - (narrow ? 8 : 56));
    const step = Math.max(1, Math.ceil(columns.length * 15 / room));
    const ticks = columns.filter(i => i % step === 0);
    return {
      height: 88 + 30 * data.experts.length,
      margin: {t: 6, b: 76, l: left, r: narrow ? 8 : 56},
      paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
      font: {family: css.fontFamily, size: 12, color: css.color},
      uirevision: data.run, dragmode: false, shapes: this.shapes(),
      yaxis: {autorange: 'reversed', tickvals: data.experts.map((_, k) => k), ticktext: names,
        fixedrange: true, showgrid: false, zeroline: false, ticks: ''},
      xaxis: {tickvals: ticks, ticktext: ticks.map(i => `${plain(tokenTick(data.text[i]), 9)} ${i + 1}`),
        tickangle: -90, tickfont: {size: 11}, fixedrange: true, showgrid: false, zeroline: false, ticks: ''},
    };
  }

  caption(start, end, count) {
    const note = this.figure.querySelector('.mpd-window');
    note.hidden = count <= WINDOW;
    note.querySelector('.mpd-range').textContent = `tokens ${start + 1}–${end} of ${count}`;
    this.figure.querySelector('.mpd-earlier').disabled = start === 0;
    this.figure.querySelector('.mpd-later').disabled = end === count;
  }

  /** Outline the hovered and the pinned column. */
  mark(marks) {
    this.marks = marks;
    if (window.Plotly && this.node.layout && !this.figure.hidden) Plotly.relayout(this.node, {shapes: this.shapes()});
  }

  shapes() {
    const css = getComputedStyle(this.node);
    const box = (i, dash) => ({type: 'rect', x0: i - 0.5, x1: i + 0.5, y0: 0, y1: 1, yref: 'paper',
      line: {color: css.color, width: 2, dash}});
    const {pinned, hovered} = this.marks;
    return [[pinned, 'solid'], [hovered, 'dot']].filter(([i]) => i !== undefined && i !== null).map(m => box(...m));
  }

  /** Plotly adds its own "on" to the node with the first painting. */
  listen() {
    if (this.listening) return;
    this.listening = true;
    this.node.on('plotly_hover', e => this.events.hover(e.points[0].x));
    this.node.on('plotly_unhover', () => this.events.hover(null));
    this.node.on('plotly_click', e => this.events.pin(e.points[0].x));
  }
}
