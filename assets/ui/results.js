// The Results page's table. Names of methods and dimensions are a file's: they only reach textContent.

/** Rows of text; the column "win rate" gets a bar as long as the rate, and 0.5 is marked. */
function showResults() {
  const {heads, rows} = props.value ?? {heads: [], rows: []}, place = element.querySelector('.mpd-results');
  place.replaceChildren(...(rows.length ? [tableOf('Methods in pairs', heads, rows)] : []));
  place.querySelector('details')?.setAttribute('open', '');
  const rate = heads.indexOf('win rate');
  for (const row of place.querySelectorAll('tbody tr')) {
    const cell = row.cells[rate];
    if (!Number.isFinite(Number.parseFloat(cell.textContent))) continue;
    cell.classList.add('mpd-rate');
    cell.style.setProperty('--share', cell.textContent);
  }
}
watch('value', showResults);
showResults();
