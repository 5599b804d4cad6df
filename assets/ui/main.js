// The start: notes, look, and the first painting. Attributes for tests are data-run, data-count,
// data-done and data-status on the component.

knowEngine(props.engine);
legend($('.mpd-all'), pack.dimensions.flatMap(dimension => dimension.poles));
try { Object.assign(state.look, JSON.parse(recall('localStorage', 'mpd-look') ?? '{}')); } catch { /* not ours */ }
if (!Object.hasOwn(COLOURINGS, state.look.mode)) state.look.mode = 'weight';
showLook();

window.addEventListener('pagehide', () => store.now(state.turns));
watch('value', () => take(props.value));
repaint();
