// The page's state. This file and those after it share one function scope, the body of Gradio's
// js_on_load, with element, props, watch and trigger in it.

const $ = selector => element.querySelector(selector);
const root = $('.mpd'), log = $('.mpd-log'), side = $('.mpd-side'), pack = props.pack;
const form = new Form(pack), store = new Store(pack.name, props.engine.offline), inspector = new Inspector(side);
const wide = window.matchMedia('(min-width: 1200px)'), stacked = window.matchMedia('(max-width: 899px)');

const state = {
  turns: [], version: null,        // version: the one that map and inspector show
  hovered: null, pinned: null,     // token indices within it
  detail: null, detailAt: 0,       // what the inspector shows, and since when
  look: {mode: props.trained ? 'deviation' : 'keenest', unit: 'token', view: 'tokens'},
  intents: [],                     // what is asked for otherwise than by Run, until Gradio tells of it
  fill: null,                      // a change of the controls' values that Gradio has not asked for yet
  filling: 0,                      // changes that Gradio took and that are not on the page yet
  held: new Map(),                 // pointers that press something in the inspector, and the timer that lets go
  fetch: new Map(),                // versions whose chunks are missing, and when to ask again
  follow: false,                   // whether the end of the reply is kept in sight
  editing: null,                   // the turn whose instruction is being changed
  engine: props.engine,            // what is known of it; offline: a page without one
  ready: false,                    // whether what the browser had kept is back, and on the page
  halted: [],                      // versions that ended here, of which the server must hear
  last: {prompt: null, at: 0},
  runs: false,                     // whether the link that opened the page asks for a run
};
/** A promise and what fulfils it. */
function promised() {
  let done;
  return Object.assign(new Promise(kept => { done = kept; }), {done});
}
// Gradio has loaded, the kept conversation is back, and all parts of the page are there.
const loaded = promised(), back = promised(), complete = promised();
const versions = () => state.turns.flatMap(turn => turn.versions);
const open = () => versions().filter(version => !version.closed);
const turnOf = version => state.turns.find(turn => turn.versions.includes(version));
const map = new TokenMap($('.mpd-figure'), {hover: i => hover(state.version, i), pin: i => pin(state.version, i, true)});
