// A finished reply's map in Plotly: zoom, numbers on hover, and images as PNG or SVG.

let explored = null;
async function explore(dialog, source, data, shown, title) {
  const node = dialog.querySelector('.mpd-plot');
  dialog.showModal();
  explored = data;
  try { await loadPlotly(source); } catch (error) { node.textContent = error.message; return; }
  if (explored !== data) return;  // closed meanwhile, and opened for another reply
  node.replaceChildren();
  const {colour, layout, config} = plotLook(node, title);
  const layer = layerOf(data, shown), ramp = layer.around ? ['--mpd-below', '--mpd-heat-0', '--mpd-heat-2'] : ['--mpd-heat-0', '--mpd-heat-1', '--mpd-heat-2'];
  const columns = data.text.map((_, i) => i), every = Math.max(1, Math.ceil(columns.length * 15 / node.clientWidth));
  const ticks = columns.filter(i => i % every === 0);
  const axis = {showgrid: false, zeroline: false, ticks: ''};
  await window.Plotly.newPlot(node, [{
    type: 'heatmap', zmin: layer.low(data), zmax: layer.high(data), x: columns, y: data.experts.map((_, k) => k),
    z: data.experts.map((_, k) => columns.map(i => layer.of(data, i)[k])),
    text: data.experts.map(e => columns.map(i => `${plain(e.name)}, token ${i + 1}: ${plain(tokenName(data.text[i]))}`)),
    hovertemplate: '%{text}<br>%{z:.3f}<extra></extra>',
    colorscale: ramp.map((name, k) => [k / 2, colour(name)]),
    colorbar: {thickness: 10, outlinewidth: 0},
  }], {
    height: Math.max(260, 120 + 42 * data.experts.length), margin: {t: 30, b: 100, l: 120, r: 40},
    ...layout,
    yaxis: {...axis, autorange: 'reversed', tickvals: data.experts.map((_, k) => k), ticktext: data.experts.map(e => `${plain(shorten(e.name, 16))} ${e.glyph}`)},
    xaxis: {...axis, tickangle: -90, tickvals: ticks, ticktext: ticks.map(i => `${plain(tokenTick(data.text[i]))} ${i + 1}`)},
  }, {...config, displayModeBar: true});  // its buttons are why one came here
  dialog.dataset.ready = 'true';
}
