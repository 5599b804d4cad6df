// The tools above the reply and the controls beside it.

// ---- tools

function relook(changes) {
  Object.assign(state.look, changes);
  for (const version of versions()) version.recolour(state.look);
  for (const turn of state.turns) turn.stale = true;
  keep('localStorage', 'mpd-look', JSON.stringify(state.look));
  showLook();
  repaint();
}

function showLook() {
  $('.mpd-mode').value = state.look.mode;
  $('.mpd-unit').value = state.look.unit;
  for (const button of root.querySelectorAll('.mpd-views button')) button.setAttribute('aria-pressed', String(button.dataset.view === state.look.view));
}

$('.mpd-mode').append(...Object.entries(COLOURINGS).map(([name, {label}]) => choiceOf(name, label)));
$('.mpd-mode').addEventListener('change', e => relook({mode: e.target.value}));
$('.mpd-unit').addEventListener('change', e => relook({unit: e.target.value}));
for (const button of root.querySelectorAll('.mpd-views button')) button.addEventListener('click', () => relook({view: button.dataset.view}));
$('.mpd-marks').addEventListener('change', e => root.classList.toggle('marks', e.target.checked));
$('.mpd-stop').addEventListener('click', () => document.querySelector('#stop').click());
// The second half of a double press asks for nothing, however late a busy browser tells of it.
window.addEventListener('click', e => { if (e.detail > 1 && e.target.closest?.('#run')) e.stopPropagation(); }, true);
$('.mpd-next').addEventListener('click', () => {  // on a phone the instruction is screens away
  document.body.scrollIntoView();  // which also scrolls a page around this one
  document.querySelector('#prompt textarea').focus({preventScroll: true});
});
$('.mpd-explore').addEventListener('click', () => explore($('.mpd-dialog'), props.plotly, state.version.data, map.layer, fileName(state.version, '')));
new MutationObserver(() => { map.theme(); map.paint(); }).observe(document.body, {attributeFilter: ['class']});

// ---- controls

/** Change the controls' values; Gradio asks for them soon, and once for several changes. */
function fill(change) {
  const before = state.fill;
  state.fill = before ? now => change(before(now)) : change;
  if (!before) askToFill();
}

let asking = null;
/** Until it is taken: Gradio hears nothing before the page is mounted, nor while it still fills. */
function askToFill() {
  trigger('fill', {});
  clearTimeout(asking);
  asking = setTimeout(() => { if (state.fill && element.isConnected) askToFill(); }, 250);
}

const AS_IT_IS = {__type__: 'update'};
window.mpdStudio = {
  ask,
  askMeant,
  openRuns: () => JSON.stringify(open().map(version => version.id)),
  halted: () => JSON.stringify(state.halted.splice(0)),
  missing: () => JSON.stringify([...state.fetch.keys()]),
  forget() {
    stopAll();
    const gone = state.turns.filter(turn => !turn.stored);
    for (const turn of state.turns) turn.node.remove();
    activate(null);
    Object.assign(state, {turns: [], editing: null, detail: null, last: {prompt: null, at: 0}});
    if (gone.length) notice('This is a new chat.', 'Bring the last one back', () => bringBack(gone));
    else notice('');
    saveAndPaint();
  },
  remember: (...values) => { keep('sessionStorage', 'mpd-draft', JSON.stringify(form.read(values))); },
  wanted(...values) {
    // What was typed since Gradio took the values is in the box alone; and what does not change is not
    // written, or it would undo whatever a visitor does meanwhile.
    const now = {...form.read(values), prompt: document.querySelector('#prompt textarea').value}, change = state.fill;
    state.fill = null;
    state.filling++;
    const was = form.write(now);
    return form.write(change ? change(now) : now).map((value, k) => (value === was[k] ? AS_IT_IS : value));
  },
  /** What `wanted` gave is on the page. */
  filled() {
    state.filling--;
    repaint();
  },
  async restore() {
    loaded.done();
    const link = form.fromLink(location.search), draft = JSON.parse(recall('sessionStorage', 'mpd-draft') ?? 'null');
    const fresh = link && recall('sessionStorage', 'mpd-link') !== location.search;
    if (link) keep('sessionStorage', 'mpd-link', location.search);
    try { await restoreTurns(); } catch (error) { console.warn(error); }  // what an older page kept
    back.done();
    state.runs = Boolean(fresh && link.run);
    if (!state.runs) showExample();
    const typed = document.querySelector('#prompt textarea')?.value ?? '';  // by someone who did not wait
    if (!fresh && !sound(draft)) return form.write(form.defaults()).map(() => AS_IT_IS);  // a visitor may have begun
    if (!fresh) return form.write(typed.trim() ? {...draft, prompt: typed} : draft);
    if (link.problems.length) notice(`The link asks for what is not here and was left out: ${link.problems.join(', ')}.`);
    return form.write(link.form);
  },
  /** What `restore` gave is on the page. */
  restored() {
    state.ready = true;
    repaint();
    if (state.runs) complete.then(() => document.querySelector('#run').click());
  },
  /** The finished replies of this conversation, as [name, JSON]. */
  traces: () => versions().filter(v => v.closed && v.data.text.length > 0)
    .map((v, k) => [`reply ${k + 1}`, JSON.stringify(toTrace(v.heading(), v.data))]),
  mount: mountControls,
};

/** Turns that were forgotten a moment ago: whatever is asked for takes the offer away. */
function bringBack(turns) {
  notice('');
  for (const version of turns.flatMap(turn => turn.versions)) version.unsaved = true;
  log.append(...turns.map(turn => turn.node));
  state.turns = turns;
  activate(turns.at(-1).version);
  saveAndPaint();
}

/** Whether a draft fits this pack: the browser may remember another's. */
function sound(draft) {
  return Boolean(draft) && typeof draft.prompt === 'string' && form.isCode(draft.preference ?? '')
    && pack.settings.every(({name, choices}) => name in (draft.settings ?? {}) && (!choices.length || choices.includes(draft.settings[name])));
}

async function restoreTurns() {
  for (const saved of await store.load()) {
    const turn = addTurn();
    for (const record of saved.versions) turn.add(Version.restored(pack, form, record, actions));
    const byId = id => turn.versions.find(v => v.id === id);
    Object.assign(turn, {grid: saved.grid, trail: (saved.trail ?? []).map(byId).filter(Boolean)});
    turn.spot = Math.min(saved.spot ?? -1, turn.trail.length - 1);
    turn.show(saved.active);
  }
  state.follow = open().length > 0 && recall('sessionStorage', 'mpd-follow') !== 'false';
  awaitEnds(open());
  activate(state.turns.at(-1)?.version ?? null);
  repaint();
}

/** Replies that were being written when the page went: ask the server how far they came. */
function awaitEnds(orphans) {
  const left = orphans.filter(version => !version.closed && versions().includes(version));
  if (!left.length) return;
  for (const version of left) missing(version, 200);
  // Each answer is a reply as a whole: the longer, the less often.
  setTimeout(() => awaitEnds(left), Math.min(2500, 800 + 5 * Math.max(...left.map(version => version.data.text.length))));
}

/** The reply that a visitor looks at, if it is of the last turn. */
const newest = () => state.turns.at(-1)?.version ?? null;

function mountControls(node) {
  const pick = selector => node.querySelector(selector), columns = new Columns(pick('.mpd-columns'), pick('.mpd-column-add'), form, pack);
  const every = pick('.mpd-every'), file = pick('input[type=file]'), panel = pick('.mpd-compare'), opener = pick('.mpd-compare-open');
  every.hidden = pack.every < 2;
  every.textContent = `All ${pack.every === 8 ? 'eight' : pack.every}`;
  every.title = `The same instruction under all ${pack.every} preferences, side by side`;
  every.addEventListener('click', () => askFor({instead: newest(), replies: form.every().map(preference => ({preference}))}));
  opener.addEventListener('click', () => {
    panel.hidden = !panel.hidden;
    opener.setAttribute('aria-expanded', String(!panel.hidden));
    const draft = JSON.parse(recall('sessionStorage', 'mpd-draft') ?? 'null');
    columns.start(sound(draft) && !draft.preference.includes('-') ? draft.preference : form.defaults().preference);
    if (!panel.hidden) panel.scrollIntoView({block: 'nearest'});
  });
  pick('.mpd-column-add').addEventListener('click', () => columns.add());
  pick('.mpd-compare-run').addEventListener('click', () => {
    askFor({instead: newest(), replies: columns.chosen().map(({method, preference}) => ({preference, settings: {method}}))});
  });
  pick('.mpd-open').addEventListener('click', () => file.click());
  file.addEventListener('change', () => { if (file.files[0]) openFile(file.files[0]); file.value = ''; });
  pick('#examples').hidden = pack.examples.length === 0;
  pick('.gallery').append(...pack.examples.map(([prompt, preference]) => {
    const poles = form.chosen(preference), button = makeButton(`${poles.map(pole => pole.glyph).join('')} ${prompt}`, '', () => example(prompt, preference));
    button.title = `Fills in the instruction and the toggles: ${poles.map(pole => pole.name).join(', ')}`;
    return button;
  }));
}

/** An example takes the place of what was typed, which can be had back. */
function example(prompt, preference) {
  fill(now => {
    const own = now.prompt.trim() !== '' && !pack.examples.some(([text]) => text === now.prompt);
    if (own) notice('The example took the place of your instruction.', 'Undo', () => { fill(() => now); notice(''); });
    return {...now, prompt, preference};
  });
}
