// The start: notes, look, and the first painting. Attributes for tests are data-run, data-count,
// data-done and data-status on the component.

/** A page that was saved as a file: its one reply, and nothing that needs a server. */
function openKept() {
  root.classList.add('offline');
  state.ready = true;
  try { replay(readTrace(document.querySelector('#mpd-trace').textContent, pack)); } catch (error) { notice(error.message); }
  if (state.version?.head.trained === false) relook({mode: 'keenest'});
  document.title = `MPD Studio: ${shorten(state.version?.prompt ?? 'a reply', 80)}`;
}

/** Gradio mounts a component when its own module has come, so on a slow line the page would grow
 * piece by piece: it is shown when the last piece is there, and Gradio hears what is pressed. (A rule
 * with :has would restyle the whole reply at every token.) */
async function showComplete() {
  const parts = ['#prompt textarea', '#dimensions input', '#run', '#more button', '#advanced button'];
  if (!parts.every(part => document.querySelector(part))) { requestAnimationFrame(showComplete); return; }
  document.querySelector('#prompt textarea').dir = 'auto';  // instructions in any script
  joinRadios();
  new MutationObserver(joinRadios).observe(document.querySelector('#controls'), {subtree: true, attributeFilter: ['name']});
  await loaded;
  document.querySelector('#studio').dataset.complete = 'true';
  complete.done();
  showOpened(document.querySelector('#advanced'));
}

/** What opens below the edge of its column would seem not to have opened. */
function showOpened(node) {
  new ResizeObserver(() => { if (node.contains(document.activeElement)) node.scrollIntoView({block: 'nearest'}); }).observe(node);
}

knowEngine(props.engine);
if (!props.engine.offline) showComplete();
legend($('.mpd-all'), pack.dimensions.flatMap(dimension => dimension.poles));
try { Object.assign(state.look, JSON.parse(recall('localStorage', 'mpd-look') ?? '{}')); } catch { /* not ours */ }
if (!Object.hasOwn(COLOURINGS, state.look.mode)) state.look.mode = 'deviation';
showLook();

window.addEventListener('pagehide', () => store.now(state.turns));
watch('value', () => take(props.value));
if (props.engine.offline) openKept();
repaint();
