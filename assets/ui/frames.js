// Frames from the server, and what is asked of it.

const SILENT_MS = 5000;  // of a reply that is being written, before the server is asked

// ---- frames

function take(frame) {
  if (frame.engine) knowEngine(frame.engine);
  if (frame.refused) notice(frame.refused);
  for (const [id, said] of Object.entries(frame.runs ?? {})) {
    const version = versions().find(v => v.id === id);
    if (version) takeRun(version, said);
  }
  for (const id of frame.lost ?? []) { versions().find(v => v.id === id)?.cut(CUT); state.fetch.delete(id); }
  repaint();
}

function takeRun(version, said) {
  const waiting = version.status === 'waiting';
  if (said.status === 'refused') return refuse(version, said.message);
  if (!version.take(said)) return missing(version);
  state.fetch.delete(version.id);
  if (waiting && said.status !== 'waiting') accepted(version);
  if (said.status === 'failed') giveBack(version);
  if (version.closed) store.now(state.turns);
  else store.soon(() => state.turns, version.data.text.length);
}

/** Ask for the chunks that were missed: a hidden tab or a lost connection. */
function missing(version, delay = 0) {
  const now = performance.now();
  if (now < state.fetch.get(version.id)) return;
  state.fetch.set(version.id, now + delay + 2000);  // the answer may be lost as well
  setTimeout(() => trigger('fetch', {}), delay);
}

/** The prompt box can be emptied, unless something else was typed meanwhile. */
function accepted(version) {
  fill(now => (now.prompt === version.prompt ? {...now, prompt: ''} : now));
}

function giveBack(version) {
  fill(now => (now.prompt.trim() === '' ? {...now, prompt: version.prompt} : now));
}

function refuse(version, message) {
  const turn = turnOf(version);
  const alone = turn.versions.length === 1;
  if (turn.grid && !alone) { version.cut(message); return; }
  turn.drop(version);
  if (alone) {
    turn.node.remove();
    state.turns = state.turns.filter(t => t !== turn);
  }
  if (state.version === version) activate(turn.version ?? state.turns.at(-1)?.version ?? null);
  notice(message);
  giveBack(version);
  store.now(state.turns);
}

// ---- the engine: whether it is there, and how long its queue is

function knowEngine(engine) {
  if (root.dataset.engine && JSON.stringify(engine) === JSON.stringify(state.engine)) return;
  state.engine = engine;
  state.detail = null;
  const notes = [...engine.notes], device = document.querySelector('.mpd-device');
  if (!props.trained) {
    notes.unshift('The weights of this pack are untrained and therefore uniform: with method MPD every '
      + 'expert weighs the same. Colours show which expert is the most confident about a token.');
  }
  $('.mpd-notes').hidden = notes.length === 0;
  $('.mpd-notes').replaceChildren(...notes.map(note => make('li', '', note)));
  if (device) Object.assign(device, {textContent: engine.ready ? `${engine.device} · ${engine.precision}` : 'loading', title: TERMS.device});
  root.dataset.engine = engine.ready ? 'ready' : 'loading';
}

/** Ask how far the model or the queue is, while there is something to wait for. */
function keepAsking() {
  if (!element.isConnected) return;
  const waiting = open().filter(version => version.status === 'waiting' && version.heard);
  for (const version of waiting) state.fetch.set(version.id, 0);
  // A reply's last frame may be the one that was lost: nothing after it would tell.
  for (const version of open()) if (version.status === 'streaming' && performance.now() - version.heardAt > SILENT_MS) missing(version);
  if (open().some(version => !version.heard)) announce();
  if (waiting.length || !(state.engine.ready || state.engine.offline)) trigger('fetch', {});
}
setInterval(keepAsking, 1000);

/** What a visitor waits for before the first token. */
function awaited(writing) {
  if (!state.engine.ready) return `The model is loading, your instruction waits for it. ${state.engine.stage}`;
  if (!writing.some(version => version.heard)) {
    if (!navigator.onLine) return 'There is no connection: your instruction is kept, and has not been sent.';
    const late = performance.now() - state.last.at > 6000;  // every reply that is written holds a connection
    return `Sent; the server has not answered yet…${late ? ' A browser opens six connections to a site at most: other tabs of this page that are writing may hold them all.' : ''}`;
  }
  const ahead = Math.min(...writing.map(version => version.ahead ?? 0));
  if (ahead > 0) return `In the queue: ${ahead} ${ahead === 1 ? 'request is' : 'requests are'} before yours…`;
  return 'The experts are reading your instruction…';
}

// ---- asking

/** What the turns before one say; replies without text are no part of a conversation. */
function history(turns) {
  return turns.filter(turn => turn.version.text.trim() !== '').flatMap(turn => [
    {role: 'user', content: turn.version.prompt}, {role: 'assistant', content: turn.version.text}]);
}

/** Gradio calls this at Run: note what is asked, show it, and return it for the server. */
async function ask(...values) {
  await back;  // else the conversation that is still being read would come after this
  return request(form.read(values), {}, true);
}

/** And this after `askFor`, once for each. */
async function askMeant(...values) {
  const intent = state.intents.shift();
  await back;
  return request(form.read(values), intent, false);
}

function request(now, intent, plainRun) {
  const shown = now.prompt.trim() === '' ? intent.instead : null;
  const prompt = shown?.prompt ?? intent.prompt ?? now.prompt;
  const empty = prompt.trim() === '', soon = performance.now() - state.last.at < 800;
  if (plainRun && soon && (empty || prompt === state.last.prompt)) return '';  // a double press
  if (empty) { notice('The prompt is empty: type an instruction.'); return ''; }
  state.last = {prompt, at: performance.now()};
  if (stacked.matches) document.activeElement?.blur();  // its keyboard would cover the reply
  stopAll();
  dropExample();
  const at = intent.turn ?? (shown ? turnOf(shown) : state.editing);
  state.editing = null;
  const turn = at && state.turns.includes(at) ? at : addTurn();
  const replies = intent.replies ?? [{}];
  const together = replies.length > 1 ? randomId() : null;  // what is compared with each other
  const before = history(state.turns.slice(0, state.turns.indexOf(turn)));
  const made = replies.map(({preference, settings, from, names, branch}) => new Version(pack, form, {
    id: randomId(), preference: preference ?? now.preference, settings: form.known({...now.settings, ...settings}),
    messages: from?.plan.messages ?? [...before, {role: 'user', content: prompt}], names, branch, together,
  }, actions, from));
  turn.visit();
  for (const version of made) turn.add(version);
  if (replies.length > 1) turn.grid = true;
  turn.show(turn.versions.indexOf(made[0]));
  turn.visit();
  notice('');
  activate(made[0]);
  if (turn.grid && !stacked.matches) turn.node.scrollIntoView({block: 'nearest'});
  follow(true);
  repaint();
  store.now(state.turns);
  return JSON.stringify(made.map(({plan}) => ({
    id: plan.id, messages: plan.messages, preference: plan.preference, settings: plan.settings, ...asked(plan)})));
}

/** End what is being written: the page does not wait for the server's word. */
function stopAll() {
  const busy = open();
  if (!busy.length) return;
  state.halted.push(...busy.map(version => version.id));
  trigger('halt', {});
  for (const version of busy) version.cut();
}

/**
 * Ask for something other than what the controls say. `instead`: the reply whose instruction is meant
 * where none is typed.
 */
function askFor(intent) {
  state.intents.push(intent);
  trigger('ask', {});
}

function addTurn() {
  const turn = new Turn(actions);
  state.turns.push(turn);
  log.append(turn.node);
  grown.observe(turn.node);
  return turn;
}
