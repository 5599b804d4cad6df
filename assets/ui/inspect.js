// The inspector: a reply at a glance, or one of its tokens in every number that was recorded.

const FINISH = {stop: 'ended by itself', length: 'cut at the limit', cancelled: 'stopped', error: 'failed'};

/** How a reply ended; a file may say anything. */
function endOf({finish}, unknown) {
  return Object.hasOwn(FINISH, finish) ? FINISH[finish] : unknown;
}

function glyphOf(expert) {
  const glyph = make('span', 'mpd-glyph', expert.glyph);
  glyph.dataset.slot = expert.slot;
  glyph.setAttribute('aria-hidden', 'true');
  return glyph;
}

function legend(list, experts) {
  list.replaceChildren(...experts.map(expert => {
    const item = make('li');
    item.append(glyphOf(expert), make('span', '', expert.name));
    return item;
  }));
}

function fact(label, value, className = '') {
  const pair = make('div', className), name = make('dt');
  name.append(label);
  pair.append(name, make('dd', '', value));
  return pair;
}

/** A bar; `mean` marks where it stands on average over the reply. */
function meter(expert, value, mean = null) {
  const bar = make('span', 'mpd-bar');
  bar.style.setProperty('--share', value ?? 0);
  if (mean !== null) {
    bar.style.setProperty('--mean', mean);
    bar.title = `${percent(mean)} on average over the reply`;
  }
  const row = make('div', 'mpd-row'), name = make('span', 'mpd-name');
  row.dataset.slot = expert.slot;
  name.append(glyphOf(expert), expert.name);
  row.append(name, bar, make('span', 'mpd-value', percent(value)));
  return row;
}

class Inspector {
  constructor(node) {
    this.node = node;
    this.whatIf = new WhatIf();
  }

  /** Show token i of a version, or with null the version as a whole. */
  show(version, i, pinned, actions) {
    const {node} = this, empty = !version || version.data.text.length === 0;
    node.dataset.pinned = pinned ? i : '';
    if (empty) {
      node.replaceChildren(make('h2', '', 'Inspector'), make('p', 'mpd-hint',
        'While a reply is written, its numbers appear here. Point at a token to see who wanted it; click it, or press Enter on it, to pin it.'));
      return;
    }
    if (i === null) this.whole(version);
    else this.token(version, i, pinned, actions);
  }

  whole(version) {
    const {data, head} = version, count = data.text.length, mean = values => sum(values) / count;
    const leaders = data.weight.map(leader), facts = make('dl', 'mpd-summary');
    const switches = leaders.filter((l, i) => i > 0 && l !== leaders[i - 1]).length;
    const timing = version.timing(), {engine} = state;
    const elsewhere = head && (head.device !== engine.device || head.precision !== engine.precision);  // else the page's head says it
    facts.append(
      fact('Tokens', String(count)), fact('Speed', timing.rate ? `${timing.rate.toFixed(1)} tokens/s` : '–'),
      fact('First token', timing.first === null ? '–' : `${timing.first.toFixed(2)} s`),
      fact(term('entropy', 'Mean entropy'), nats(mean(data.entropy))),
      ...(data.experts.length > 1 ? [
        fact(term('divergence', 'Mean divergence'), nats(mean(data.divergence))),
        fact(term('switches', 'Switches'), `${(100 * switches / count).toFixed(0)} per 100`)] : []),
      ...(elsewhere ? [fact(term('device', 'Device'), `${head.device}, ${head.precision}`, 'mpd-whole')] : []));
    const weights = make('div', 'mpd-rows mpd-means');
    weights.append(...data.experts.map((e, k) => meter(e, data.total[k] / count)));
    const title = make('h3');
    title.append(term('weight', 'Mean weights'));
    this.node.replaceChildren(make('h2', '', 'This reply'), ...(data.experts.length > 1 ? [title, weights] : []), facts,
      make('p', 'mpd-hint only-tokens', 'Point at a token for its numbers; click it, or press Enter on it, to pin it.'),
      make('p', 'mpd-hint only-read', 'Point at the map for the numbers of a token; click it to pin the token.'));
  }

  token(version, i, pinned, actions) {
    const {data} = version;
    this.node.replaceChildren(this.heading(data, i, pinned, actions), this.facts(data, i, version.listed), this.experts(data, i),
      ...(data.top[i].length ? [this.candidates(version, i, pinned)] : []),
      ...(pinned && data.experts.length > 1 && data.top[i].length ? [this.whatIf.panel(version, i)] : []));
  }

  heading(data, i, pinned, actions) {
    const head = make('div', 'mpd-detail-head'), title = make('h2', 'mpd-token', tokenName(data.text[i]));
    title.dir = 'auto';
    const earlier = makeButton('←', 'mpd-step', () => actions.step(-1)), later = makeButton('→', 'mpd-step', () => actions.step(1));
    earlier.setAttribute('aria-label', 'Token before');
    later.setAttribute('aria-label', 'Token after');
    earlier.disabled = i === 0;
    later.disabled = i === data.text.length - 1;
    const release = makeButton('×', 'mpd-step mpd-release', () => actions.release());
    release.setAttribute('aria-label', 'Release the pinned token');
    release.title = 'Release (Esc)';
    head.append(title, make('span', 'mpd-hint', `token ${i + 1} of ${data.text.length}`), ...(pinned ? [earlier, later, release] : []));
    return head;
  }

  facts(data, i, k) {
    const facts = make('dl', 'mpd-summary'), place = rankOf(data, i, k);
    const bytes = Array.from(new TextEncoder().encode(data.text[i]), b => b.toString(16).padStart(2, '0')).join(' ');
    facts.append(
      fact(term('probability', 'Probability'), percent(data.probability[i])),
      ...(data.top[i].length ? [fact(term('rank', 'Rank'), place.exact ? String(place.rank) : `below ${k}`)] : []),
      fact(term('entropy', 'Entropy'), nats(data.entropy[i])),
      ...(data.experts.length > 1 ? [
        fact(term('divergence', 'Divergence'), nats(data.divergence[i])),
        fact(term('disagreement', 'Weighted div.'), nats(data.disagreement[i]))] : []),
      fact('Token id', String(data.id[i])), fact(term('bytes', 'Bytes'), bytes || '–', 'mpd-wide'));
    return facts;
  }

  experts(data, i) {
    const rows = make('div', 'mpd-rows mpd-detail-rows'), title = make('h3');
    title.append(term('weight', 'Weights'), ...(still(data) ? [] : [make('span', 'mpd-key', 'mean over the reply')]));
    data.experts.forEach((e, k) => {
      const mean = still(data) ? null : data.total[k] / data.text.length, row = meter(e, data.weight[i][k], mean), notes = make('span', 'mpd-row-notes');
      const likeliest = data.top[i].reduce((best, c) => (best === null || c.chance[k] > best.chance[k] ? c : best), null);
      const note = (key, label, value) => {
        const part = make('span');
        part.append(term(key, label), ` ${value}`);
        return part;
      };
      notes.append(
        ...(data.experts.length > 1 ? [note('responsibility', 'responsible', percent(data.responsibility[i][k]))] : []),
        note('chance', 'finds it', percent(data.chance[i][k])),
        ...(likeliest ? [note('alone', 'alone', likeliest.id === data.id[i] ? 'the same' : `“${tokenTick(likeliest.text, 14)}”`)] : []));
      row.append(notes);
      rows.append(row);
    });
    const box = make('section'), names = data.anchors > 1 ? ['start', 'anchor'] : data.anchors ? ['start'] : [];
    if (names.length) {
      const notes = make('span', 'mpd-row-notes mpd-anchors');
      notes.append(...names.map((name, a) => {
        const part = make('span');
        part.append(term(name === 'start' && names.length > 1 ? 'base-start' : name, name), ` finds it ${percent(chanceOf(data.logprob[i][data.experts.length + a]))}`);
        return part;
      }));
      rows.append(notes);
    }
    box.append(title, rows);
    return box;
  }

  /** Every expert's likeliest tokens beside the merged ones, and what is left for all others. */
  candidates(version, i, pinned) {
    const {data, listed: k} = version;
    const go = pinned && canBranch(version) ? c => branchFrom(version, i, {token: c.id, text: c.text}) : null;
    const merged = {name: 'merged', value: c => c.p};
    // Where shifts move a start, one expert alone is not what decides either.
    const columns = [...(data.experts.length > 1 || data.anchors > 0 ? [merged] : []),
      ...data.experts.map((e, k) => ({name: e.name, expert: e, value: c => c.chance[k]}))];
    const table = make('table', 'mpd-candidates'), head = make('tr'), body = make('tbody'), tokens = candidatesOf(data, i);
    head.append(...columns.map(column => {
      const cell = make('th');
      cell.scope = 'col';
      cell.append(...(column.expert ? [glyphOf(column.expert)] : []), make('span', '', column.name));
      return cell;
    }));
    // What decoding had taken out (p = 0) is nobody's proposal.
    const ranked = columns.map(column => tokens.filter(t => column.value(t) > 0).sort((a, b) => column.value(b) - column.value(a)).slice(0, k));
    for (let r = 0; r < Math.max(...ranked.map(list => list.length)); r++) {
      const row = make('tr');
      row.append(...columns.map((column, n) => candidateCell(ranked[n][r], column.value, data.id[i], go)));
      body.append(row);
    }
    const rest = make('tr', 'mpd-others');
    rest.append(...columns.map((column, n) => {
      const cell = make('td');
      cell.append(make('span', 'mpd-cell-token', 'others'),
        make('span', 'mpd-value', percent(Math.max(0, 1 - sum(ranked[n].map(column.value))))));
      return cell;
    }));
    body.append(rest);
    const top = make('thead'), scroll = make('div', 'mpd-scroll'), box = make('section');
    top.append(head);
    table.append(top, body);
    scroll.append(table);
    scroll.tabIndex = 0;
    scroll.setAttribute('role', 'region');
    scroll.setAttribute('aria-label', 'Likeliest tokens, merged and by expert');
    box.append(make('h3', '', 'Likeliest tokens'), ...(go ? [make('p', 'mpd-hint', 'Press one to write on from here with it.')] : []), scroll);
    return box;
  }
}

/** `go`: writes on from this candidate, where that can be done. */
function candidateCell(candidate, value, chosen, go) {
  const cell = make('td', candidate?.id === chosen ? 'chosen' : '');
  if (!candidate) return cell;
  const other = go && candidate.id !== chosen;
  const text = other ? makeButton(tokenTick(candidate.text), 'mpd-cell-token mpd-go', () => go(candidate))
    : make('span', 'mpd-cell-token', tokenTick(candidate.text));
  text.dir = 'auto';
  text.title = other ? `Write on from here with “${tokenName(candidate.text)}”` : tokenName(candidate.text);
  if (other) text.setAttribute('aria-label', text.title);
  cell.append(text, make('span', 'mpd-value', percent(value(candidate))));
  return cell;
}
