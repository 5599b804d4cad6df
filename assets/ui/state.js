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
  intent: null,                    // what the next press of Run is for, where it is no plain run
  fill: null,                      // a change of the controls' values that Gradio has not asked for yet
  filling: false,                  // until it is on the page
  held: false,                     // whether something in the inspector is being pressed
  fetch: new Map(),                // versions whose chunks are missing, and when to ask again
  follow: false,                   // whether the end of the reply is kept in sight
  editing: null,                   // the turn whose instruction is being changed
  engine: props.engine,            // what is known of it; offline: a page without one
  ready: false,                    // whether what the browser had kept is back
  stopping: [],                    // versions that ended here, of which the server must hear
  last: {prompt: null, at: 0},
};
const versions = () => state.turns.flatMap(turn => turn.versions);
const open = () => versions().filter(version => !version.closed);
const turnOf = version => state.turns.find(turn => turn.versions.includes(version));
const map = new TokenMap($('.mpd-figure'), {hover: i => hover(state.version, i), pin: i => pin(state.version, i, true)});
