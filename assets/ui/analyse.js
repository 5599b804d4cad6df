// An analysis of many traces as plots and tables. All text is from files: it only reaches textContent,
// and Plotly as plain text.

const SPREAD = [0, 2, 4, 6, 1, 3, 5, 7], DASHES = ['solid', 'dash', 'dot', 'dashdot'];

/** Draw `found`, as `Analysis.to_dict` in Python; `load` brings Plotly. */
async function showAnalysis(node, found, load, slots = {}) {
  const summary = make('p', 'mpd-analysis-sum', `${found.traces} ${found.traces === 1 ? 'reply' : 'replies'}, ${found.tokens} tokens, `
    + `${found.switches_per_100.toFixed(1)} switches of the leading expert per 100 tokens.`);
  const plots = make('div', 'mpd-plots');
  node.replaceChildren(summary, plots, apartTable(found.apart), ...[
    ['By preference', found.preferences], ['By kind of token', found.kinds], ['By position in the reply', found.positions],
  ].map(([title, rows]) => rowTable(title, rows, found.experts)));
  if (!found.tokens) return;
  try { await load(); } catch (error) { plots.replaceChildren(make('p', 'mpd-hint', error.message)); return; }
  const experts = sharing(found), alone = found.experts.filter(expert => !experts.includes(expert)).map(name => shorten(name, 24));
  if (alone.length) summary.append(` ${alone.join(', ')} wrote alone, always with weight 1, and ${alone.length === 1 ? 'is' : 'are'} left out of the plots of weights.`);
  const figures = [
    ['Mean weight by position', found.positions, experts, 'lines+markers'], ['Mean weight by kind of token', found.kinds, experts, 'bar'],
    ['Mean weight by preference', found.preferences, experts, 'bar'], ['How far experts lie apart, in nats', found.kinds, null, 'bar'],
  ].map(([title, ...what]) => ({title, what, ...frameOf(plots, title)}));
  for (const {title, what, figure, box} of figures) await plot(figure, box, title, ...what, slots);  // all have their places by now
  node.dataset.ready = 'true';
}

/** Experts that weigh beside others somewhere; where none does, all. */
function sharing({experts, kinds}) {
  const some = experts.filter(expert => kinds.some(row => row.weights[expert] < 1));
  return some.length ? some : experts;
}

function frameOf(plots, title) {
  const figure = make('figure', 'mpd-plot-one'), box = make('div');
  figure.append(make('figcaption', '', title), box);
  plots.append(figure);
  return {figure, box};
}

/** One figure: a line or a group of bars an expert; without experts the rows' divergence. */
async function plot(figure, box, title, rows, experts, kind, slots) {
  const strange = Object.keys(slots).length;  // colours behind those of the pack's experts are nobody's
  const look = plotLook(figure, title.replace(/\W+/g, '-').toLowerCase()), names = rows.map(row => plain(row.name));
  const colour = (expert, k) => look.colour(experts ? `--mpd-e${slots[expert] ?? strange + SPREAD[k % SPREAD.length]}` : '--mpd-level');
  const series = (experts ?? ['divergence']).map((expert, k) => ({
    x: names, y: rows.map(row => (experts ? row.weights[expert] ?? null : row.divergence)), name: plain(shorten(expert, 24)),
    type: kind === 'bar' ? 'bar' : 'scatter', mode: kind === 'bar' ? undefined : kind, connectgaps: false,
    marker: {color: colour(expert, k)}, line: {dash: DASHES[Math.floor(k / SPREAD.length) % DASHES.length], color: colour(expert, k)},
  }));
  const grid = look.colour('--mpd-line');
  await window.Plotly.newPlot(box, series, {
    // The buttons, which a touch screen always shows, stand beside the plot: above it is the legend.
    ...look.layout, modebar: {...look.layout.modebar, orientation: 'v'}, height: 340, margin: {t: 40, r: 36, b: 30, l: 50}, barmode: 'group', legend: {orientation: 'h', y: 1.02, yanchor: 'bottom'},
    xaxis: {type: 'category', gridcolor: grid, automargin: true}, yaxis: {rangemode: 'tozero', gridcolor: grid, zerolinecolor: grid}, showlegend: Boolean(experts),
  }, look.config);
}

function tableOf(title, heads, rows) {
  const box = make('section'), scroll = make('div', 'mpd-scroll'), table = make('table', 'mpd-numbers'), head = make('tr'), body = make('tbody');
  head.append(...heads.map(text => { const cell = make('th', '', text); cell.scope = 'col'; return cell; }));
  body.append(...rows.map(cells => {
    const row = make('tr');
    row.append(...cells.map(text => Object.assign(make('td', '', text), {dir: 'auto'})));
    return row;
  }));
  const top = make('thead');
  top.append(head);
  table.append(top, body);
  scroll.tabIndex = 0;
  scroll.setAttribute('role', 'region');
  scroll.setAttribute('aria-label', title);
  scroll.append(table);
  if (rows.length <= 20) box.append(make('h3', '', title), scroll);
  else {
    const more = make('details');
    more.append(make('summary', '', title), scroll);
    box.append(more);
  }
  return box;
}

function rowTable(title, rows, experts) {
  const switches = rows.some(row => row.switches_per_100 !== undefined);
  return tableOf(title, ['', 'tokens', 'entropy', 'divergence', ...(switches ? ['replies', 'switches per 100'] : []), ...experts],
    rows.map(row => [row.words ?? row.name, String(row.tokens), row.entropy.toFixed(3), row.divergence.toFixed(3),
      ...(switches ? [String(row.traces), row.switches_per_100.toFixed(1)] : []),
      ...experts.map(expert => (row.weights[expert] === undefined ? '–' : row.weights[expert].toFixed(3)))]));
}

function apartTable(places) {
  return tableOf('Where experts lie furthest apart', ['nats', 'token', 'after', 'each alone would have said', 'reply'],
    places.map(place => [place.divergence.toFixed(3), tokenTick(place.text, 24), place.before ? `…${place.before.replace(/\n+/g, ' ↵ ')}` : '(the start)',
      Object.entries(place.favourites).map(([expert, text]) => `${expert} “${tokenTick(text, 16)}”`).join(', '), `${place.trace}, token ${place.index + 1}`]));
}
