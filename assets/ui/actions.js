// What the buttons of a reply do, and replies from a file.

const actions = {
  open(version) {
    const turn = turnOf(version);
    turn.grid = false;
    actions.page(turn, turn.versions.indexOf(version));
    turn.holdFocus(-1);  // the button that was pressed is hidden now; this one leads back
  },
  page(turn, index) { turn.show(index); activate(turn.version); saveAndPaint(); },
  travel(turn, way) { turn.travel(way); activate(turn.version); saveAndPaint(); },
  arrange(turn, grid, all = false) { Object.assign(turn, {grid, all}); turn.arrange(); turn.stale = true; activate(turn.version); saveAndPaint(); },
  async copy(version) { said(await copyText(version.text), 'The reply is copied.'); },
  async link(version) {
    const {preference, settings} = version.plan;
    said(await copyText(form.toLink({prompt: version.prompt, preference, settings})), 'The link is copied.');
  },
  again(version) { askFor({prompt: version.prompt, turn: turnOf(version)}); },
  reseed(version) {
    const {preference, settings} = version.plan;
    if (settings.temperature === 0) {
      notice('At temperature 0 every seed gives the same reply: raise the temperature under Advanced settings and press “Ask again”.');
      return;
    }
    const seed = crypto.getRandomValues(new Uint32Array(1))[0];
    askFor({prompt: version.prompt, turn: turnOf(version), replies: [{preference, settings: {...settings, seed}}]});
  },
  edit(version) {
    state.editing = turnOf(version);
    fill(now => ({...now, prompt: version.prompt}));
    notice('Change the instruction and press Run: the new reply becomes a version of this turn.', 'Cancel', () => { state.editing = null; notice(''); });
    document.querySelector('#prompt textarea').focus();
  },
  json(version) { saveFile(fileName(version, '.json'), 'application/json', JSON.stringify(toTrace(version.heading(), version.data))); },
  npz(version) { saveFile(fileName(version, '.npz'), 'application/zip', toNpz(version.heading(), version.data)); },
  html: version => saveHtml(version),
  csv(version) { saveFile(fileName(version, '.csv'), 'text/csv', toCsv(version.data)); },
};

async function saveHtml(version) {
  try {
    const page = await server.standalone('');
    const data = JSON.stringify(toTrace(version.heading(), version.data));
    saveFile(fileName(version, '.html'), 'text/html', page.split(props.mark).join(inert(data)));
  } catch (error) {
    console.warn(error);
    notice('The page could not be made: the server does not answer. JSON can be saved without it.');
  }
}

const fileName = ({plan}, ending) => `mpd-${plan.preference}-${plan.settings.method}-seed${plan.settings.seed}`.replace(/[^\w-]+/g, '-') + ending;

function said(done, words) {
  notice(done ? words : 'The browser did not allow it: select the text and copy it by hand.');
}

function saveAndPaint() {
  store.now(state.turns);
  repaint();
}

// ---- the stored example: what a new visitor sees first, also while the model loads

async function showExample() {
  let text = '';
  try { text = await server.example(''); } catch { /* the page goes on without */ }
  if (!text || state.turns.length) return;
  const {head, experts, rows} = JSON.parse(text), version = recorded(head, experts, rows, 'stored'), turn = addTurn();
  turn.stored = true;
  turn.add(version);
  activate(version);
  repaint();
  if (!window.matchMedia('(prefers-reduced-motion: reduce)').matches) requestAnimationFrame(() => requestAnimationFrame(() => play(version)));
}

/** Show the tokens one after the other; each has its place from the start, so that nothing moves. */
function play(version) {
  const {tokens} = version.strip;
  for (const token of tokens) token.classList.add('unsaid');
  let next = 0;
  const timer = setInterval(() => {
    if (!version.node.isConnected) { clearInterval(timer); return; }  // it gave way to what a visitor asked
    tokens[next++]?.classList.remove('unsaid');
    if (next < tokens.length) return;
    clearInterval(timer);
    version.node.dataset.played = true;
  }, 60);
}

/** The example gives way to whatever the visitor does. */
function dropExample() {
  const turn = state.turns.find(one => one.stored);
  if (!turn) return;
  turn.node.remove();
  state.turns = state.turns.filter(one => one !== turn);
  if (turnOf(state.version ?? {}) === undefined) activate(null);
}

// ---- a file without a model

async function openFile(file) {
  try {
    if (file.size > FILE_LIMIT) throw new TraceError(`This file has ${Math.round(file.size / 2 ** 20)} MB; at most ${FILE_LIMIT / 2 ** 20} are read.`);
    replay(readTrace(await file.text(), pack));
  } catch (error) {
    if (!(error instanceof TraceError)) console.warn(error);
    notice(error instanceof TraceError ? error.message : 'This file could not be read.');
  }
}

/** A reply that was written before. */
function recorded(head, names, rows, origin) {
  const {settings, method, space, seed, preference} = head;
  const messages = head.messages.length ? head.messages : [{role: 'user', content: head.prompt}];
  const version = new Version(pack, form, {id: randomId(), messages, preference, origin, settings: {...settings, method, space, seed}}, actions);
  version.data = emptyData(pack, names);
  version.add(rows);
  return Object.assign(version, {head, status: 'done', finish: head.finish_reason, arrived: []});
}

function replay({head, names, rows}) {
  const version = recorded(head, names, JSON.stringify(rows), 'file');
  dropExample();
  addTurn().add(version);
  notice('');
  activate(version);
  saveAndPaint();
}
