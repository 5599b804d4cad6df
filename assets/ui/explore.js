// A finished reply's map in Plotly: zoom, numbers on hover, and images as PNG or SVG.

const TICK_PIXELS = 18;
let explored = null;
async function explore(dialog, source, data, wished, title) {
  const node = dialog.querySelector('.mpd-plot'), layer = layerOf(data, wished);
  dialog.querySelector('h2').textContent = `Map of ${layer.label}`;
  dialog.showModal();
  explored = data;
  try { await loadPlotly(source); } catch (error) { node.textContent = error.message; return; }
  if (explored !== data) return;  // closed meanwhile, and opened for another reply
  node.replaceChildren();
  const {colour, layout, config} = plotLook(node, title), narrow = node.clientWidth < 520;
  const columns = data.text.map((_, i) => i), name = e => (narrow ? e.glyph : `${plain(shorten(e.name, 16))} ${e.glyph}`);
  const axis = {showgrid: false, zeroline: false, ticks: ''};
  await window.Plotly.newPlot(node, [heatOf(data, layer, columns, colour, narrow)], {
    height: Math.max(260, (narrow ? 190 : 130) + 42 * data.experts.length), margin: narrow ? {t: 76, b: 96, l: 30, r: 10} : {t: 36, b: 96, l: 130, r: 20},
    ...layout,
    yaxis: {...axis, autorange: 'reversed', tickvals: data.experts.map((_, k) => k), ticktext: data.experts.map(name)},
    xaxis: {...axis, tickangle: -90},
  }, {...config, displayModeBar: true});  // its buttons are why one came here
  await nameColumns(node, data);
  node.on('plotly_relayout', () => nameColumns(node, data));
  dialog.dataset.ready = 'true';
}

/** Cells in the units that the page uses elsewhere: percent, or points of it. */
function heatOf(data, layer, columns, colour, narrow) {
  const unit = layer.around ? ' points' : '%', ramp = [layer.around ? '--mpd-below' : '--mpd-heat-0', layer.around ? '--mpd-heat-0' : '--mpd-heat-1', '--mpd-heat-2'];
  const beside = narrow ? {orientation: 'h', y: 1.04, yanchor: 'bottom', len: 1} : {};
  return {
    type: 'heatmap', zmin: 100 * layer.low(data), zmax: 100 * layer.high(data), x: columns, y: data.experts.map((_, k) => k),
    z: data.experts.map((_, k) => columns.map(i => { const value = layer.of(data, i)[k]; return value === null ? null : 100 * value; })),
    text: data.experts.map(e => columns.map(i => `${plain(e.name)}, token ${i + 1}: ${plain(tokenName(data.text[i]))}`)),
    hovertemplate: `%{text}<br>%{z:${layer.around ? '+' : ''}.1f}${unit}<extra></extra>`,
    colorscale: ramp.map((part, k) => [k / 2, colour(part)]),
    colorbar: {thickness: 10, outlinewidth: 0, ticksuffix: layer.around ? '' : '%', title: {text: layer.around ? 'points' : '', side: narrow ? 'right' : 'top'}, ...beside},
  };
}

/** As many tokens by name as have room, of those that are in sight. */
async function nameColumns(node, data) {
  const {xaxis, _size: size} = node._fullLayout, [from, to] = xaxis.range, every = Math.max(1, Math.ceil((to - from) * TICK_PIXELS / size.w));
  const ticks = data.text.map((_, i) => i).filter(i => i % every === 0 && i >= from && i <= to);
  if (JSON.stringify(node.layout.xaxis.tickvals) === JSON.stringify(ticks)) return;
  await window.Plotly.relayout(node, {'xaxis.tickvals': ticks, 'xaxis.ticktext': ticks.map(i => `${plain(tokenTick(data.text[i]))} ${i + 1}`)});
}
