// Legend, the detail of one token, and the summary of a reply.

function legend(list, experts, means) {
  list.replaceChildren(...experts.map((expert, k) => {
    const item = make('li');
    const glyph = make('span', 'mpd-glyph', expert.glyph);
    glyph.dataset.slot = expert.slot;
    glyph.setAttribute('aria-hidden', 'true');
    item.append(glyph, make('span', '', expert.name));
    if (means && means[k] !== undefined) item.append(make('span', 'mpd-mean', percent(means[k])));
    return item;
  }));
}

/** Weight and probability of one token under each expert, one row an expert. */
function detail(node, data, i, pinned) {
  const head = node.querySelector('.mpd-detail-head');
  const rows = node.querySelector('.mpd-detail-rows');
  node.hidden = !data || data.text.length === 0;
  node.dataset.pinned = pinned ? i : '';
  if (node.hidden) return;
  if (i === null) {
    head.replaceChildren(make('span', 'mpd-hint', 'Point at a token for its numbers; click it, or press Enter on it, to pin it.'));
    rows.replaceChildren(...data.experts.map(e => detailRow(e, null, null)));
    return;
  }
  const fact = (label, value) => make('span', 'mpd-fact', `${label} ${value}`);
  head.replaceChildren(
    make('span', 'mpd-token', tokenName(data.text[i])),
    fact('token', i + 1), fact('probability', percent(data.probability[i])),
    fact('entropy', `${(data.entropy[i] ?? 0).toFixed(2)} nats`),
    fact('disagreement', `${(data.disagreement[i] ?? 0).toFixed(3)} nats`),
    make('span', 'mpd-pin', pinned ? 'pinned – Esc releases' : ''));
  rows.replaceChildren(...data.experts.map((e, k) => detailRow(e, data.weight[i][k], data.chance[i][k])));
}

function detailRow(expert, weight, chance) {
  const row = make('div', 'mpd-row');
  row.dataset.slot = expert.slot;
  const name = make('span', 'mpd-name');
  const glyph = make('span', 'mpd-glyph', expert.glyph);
  glyph.dataset.slot = expert.slot;
  glyph.setAttribute('aria-hidden', 'true');
  name.append(glyph, expert.name);
  row.append(name, meter('weight', weight), meter('probability', chance));
  return row;
}

function meter(label, value) {
  const node = make('span', 'mpd-meter');
  const bar = make('span', 'mpd-bar');
  bar.style.setProperty('--share', value ?? 0);
  node.append(make('span', 'mpd-label', label), bar, make('span', 'mpd-value', percent(value)));
  return node;
}

const FINISH = {stop: 'ended by itself', length: 'cut at the limit', cancelled: 'stopped', error: 'failed'};

function summarise(list, data) {
  const s = data?.summary;
  list.hidden = !s || s.tokens === 0;
  if (list.hidden) return;
  const facts = [
    ['Tokens', s.tokens],
    ['Speed', s.tokens_per_s ? `${s.tokens_per_s.toFixed(1)} tokens/s` : '–'],
    ['First token', s.first_token_s === null ? '–' : `${s.first_token_s.toFixed(2)} s`],
    ['Mean entropy', s.entropy === null ? '–' : `${s.entropy.toFixed(2)} nats`],
    ['Device', `${s.device}, ${s.precision}`],
    ['Reply', FINISH[s.finish] ?? (data.status === 'failed' ? 'failed' : 'being written')],
  ];
  const weights = data.experts.map((e, k) => [`Mean weight, ${e.name}`, percent(s.means[k])]);
  list.replaceChildren(...[...weights, ...facts].map(([name, value]) => {
    const pair = make('div');
    pair.append(make('dt', '', name), make('dd', '', String(value)));
    return pair;
  }));
}
