// An analysis of many traces as plots and tables. All text is from files: it only reaches textContent,
// and Plotly as plain text.

const SLOTS = 8, DASHES = ['solid', 'dash', 'dot', 'dashdot'];

/** Draw `found`, as `Analysis.to_dict` in Python; `load` brings Plotly. */
async function showAnalysis(node, found, load) {
  const summary = make('p', 'mpd-analysis-sum', `${found.traces} ${found.traces === 1 ? 'reply' : 'replies'}, ${found.tokens} tokens, `
    + `${found.switches_per_100.toFixed(1)} switches of the leading expert per 100 tokens.`);
  const plots = make('div', 'mpd-plots');
  node.replaceChildren(summary, plots, apartTable(found.apart), ...[
    ['By position in the reply', found.positions], ['By kind of token', found.kinds], ['By preference', found.preferences],
  ].map(([title, rows]) => rowTable(title, rows, found.experts)));
  if (!found.tokens) return;
  try { await load(); } catch (error) { plots.replaceChildren(make('p', 'mpd-hint', error.message)); return; }
  await plot(plots, 'Mean weight by position', found.positions, found.experts, 'lines+markers');
  await plot(plots, 'Mean weight by kind of token', found.kinds, found.experts, 'bar');
  await plot(plots, 'Mean weight by preference', found.preferences, found.experts, 'bar');
  await plot(plots, 'How far experts lie apart, in nats', found.kinds, null, 'bar');
  node.dataset.ready = 'true';
}

/** One figure: a line or a group of bars an expert; without experts the rows' divergence. */
async function plot(plots, title, rows, experts, kind) {
  const figure = make('figure', 'mpd-plot-one'), box = make('div');
  figure.append(make('figcaption', '', title), box);
  plots.append(figure);
  const look = plotLook(figure, title.replace(/\W+/g, '-').toLowerCase()), names = rows.map(row => plain(row.name));
  const series = (experts ?? ['divergence']).map((expert, k) => ({
    x: names, y: rows.map(row => (experts ? row.weights[expert] ?? null : row.divergence)), name: plain(shorten(expert, 24)),
    type: kind === 'bar' ? 'bar' : 'scatter', mode: kind === 'bar' ? undefined : kind, connectgaps: false,
    marker: {color: look.colour(`--mpd-e${k % SLOTS}`)}, line: {dash: DASHES[Math.floor(k / SLOTS) % DASHES.length], color: look.colour(`--mpd-e${k % SLOTS}`)},
  }));
  const grid = look.colour('--mpd-line');
  await window.Plotly.newPlot(box, series, {
    ...look.layout, height: 320, margin: {t: 10, r: 10, b: 60, l: 50}, barmode: 'group', legend: {orientation: 'h', y: -0.2},
    xaxis: {type: 'category', gridcolor: grid}, yaxis: {rangemode: 'tozero', gridcolor: grid, zerolinecolor: grid}, showlegend: Boolean(experts),
  }, look.config);
}

function tableOf(title, heads, rows) {
  const box = make('section'), scroll = make('div', 'mpd-scroll'), table = make('table', 'mpd-numbers'), head = make('tr'), body = make('tbody');
  head.append(...heads.map(text => { const cell = make('th', '', text); cell.scope = 'col'; return cell; }));
  body.append(...rows.map(cells => {
    const row = make('tr');
    row.append(...cells.map(text => make('td', '', text)));
    return row;
  }));
  const top = make('thead');
  top.append(head);
  table.append(top, body);
  scroll.tabIndex = 0;
  scroll.setAttribute('role', 'region');
  scroll.setAttribute('aria-label', title);
  scroll.append(table);
  box.append(make('h3', '', title), scroll);
  return box;
}

function rowTable(title, rows, experts) {
  const switches = rows.some(row => row.switches_per_100 !== undefined);
  return tableOf(title, ['', 'tokens', 'entropy', 'divergence', ...(switches ? ['replies', 'switches per 100'] : []), ...experts],
    rows.map(row => [row.name, String(row.tokens), row.entropy.toFixed(3), row.divergence.toFixed(3),
      ...(switches ? [String(row.traces), row.switches_per_100.toFixed(1)] : []),
      ...experts.map(expert => (row.weights[expert] === undefined ? '–' : row.weights[expert].toFixed(3)))]));
}

function apartTable(places) {
  return tableOf('Where experts lie furthest apart', ['nats', 'token', 'after', 'each alone would have said', 'reply'],
    places.map(place => [place.divergence.toFixed(3), tokenTick(place.text, 24), `…${place.before}`,
      Object.entries(place.favourites).map(([expert, text]) => `${expert}: ${tokenTick(text, 16)}`).join(', '), `${place.trace}, token ${place.index + 1}`]));
}
