// The tab around an analysis: which traces, and the CSV.

const TOTAL_LIMIT = 64 * 1024 * 1024, FILES_LIMIT = 200;
const at = selector => element.querySelector(selector), say = text => { at('.mpd-notice').textContent = text; };
let table = '', latest = 0;

/** A preference as this pack's glyphs, and in words; codes of other packs stay as they are. */
function inWords(row) {
  const poles = props.dimensions.map((choices, d) => choices[row.name.charCodeAt(d) - 65]);
  const known = row.name.length === poles.length && poles.every((pole, d) => pole || row.name[d] === '-');
  const chosen = poles.filter(Boolean);
  return known && chosen.length ? {...row, name: chosen.map(([glyph]) => glyph).join(''), words: chosen.map(one => one.join(' ')).join(', ')} : row;
}

async function analyseAll(traces) {
  if (!traces.length) { say('There is no finished reply yet: write some in the tab Chat, or open traces from files.'); return; }
  say(`Looking at ${traces.length} ${traces.length === 1 ? 'reply' : 'replies'}…`);
  const mine = ++latest;  // an answer that another question has overtaken is not shown
  let answer;
  try { answer = await server.analyse_traces(traces); } catch (error) {
    console.warn(error);
    if (mine === latest) say('The server did not answer: try again, with fewer traces.');
    return;
  }
  if (mine !== latest) return;
  say(answer.refused);
  table = answer.csv;
  at('.mpd-analyse-csv').hidden = table === '';
  if (answer.found) await showAnalysis(at('.mpd-analysis'), {...answer.found, preferences: answer.found.preferences.map(inWords)}, () => loadPlotly(props.plotly), props.slots);
}

async function analyseFiles(files) {
  const size = files.reduce((all, file) => all + file.size, 0);
  if (files.length > FILES_LIMIT || size > TOTAL_LIMIT) {
    say(`${files.length} files with ${Math.ceil(size / 2 ** 20)} MB; at most ${FILES_LIMIT} with ${TOTAL_LIMIT / 2 ** 20} MB are read here. The command line reads more.`);
    return;
  }
  await analyseAll(await Promise.all(files.map(async file => [file.name, await file.text()])));
}

const picker = at('input[type=file]');
at('.mpd-analyse-open').addEventListener('click', () => picker.click());
picker.addEventListener('change', () => { const files = [...picker.files]; picker.value = ''; if (files.length) analyseFiles(files); });
at('.mpd-analyse-own').addEventListener('click', () => analyseAll(window.mpdStudio?.traces() ?? []));
at('.mpd-analyse-csv').addEventListener('click', () => saveFile('mpd-traces.csv', 'text/csv', table));
