// The start: notes, look, and the first painting. Attributes for tests are data-run, data-count,
// data-done and data-status on the component.

const notes = [...props.notes];
if (!props.trained) {
  notes.unshift('The weights of this pack are untrained and therefore uniform: with method MPD every '
    + 'expert weighs the same. Colours show which expert is the most confident about a token.');
}
$('.mpd-notes').hidden = notes.length === 0;
$('.mpd-notes').replaceChildren(...notes.map(note => make('li', '', note)));
legend($('.mpd-all'), pack.dimensions.flatMap(dimension => dimension.poles));
try { Object.assign(state.look, JSON.parse(recall('localStorage', 'mpd-look') ?? '{}')); } catch { /* not ours */ }
if (!Object.hasOwn(COLOURINGS, state.look.mode)) state.look.mode = 'weight';
showLook();

window.addEventListener('pagehide', () => store.now(state.turns));
watch('value', () => take(props.value));
repaint();
