// What tokens and the map are coloured by: one number an expert, or one number on a scale.

const COLOURINGS = {
  deviation: {label: 'weight above its mean', of: (d, i) => risesOf(d, i), full: d => swing(d), told: toldRise, whole: true,
    legend: d => `Whose weight rises most above its own mean in this reply; full colour from +${points(swing(d))} points`},
  weight: {label: 'largest weight', of: (d, i) => d.weight[i], legend: () => 'The expert with the largest weight, the stronger the larger'},
  responsibility: {label: 'expert behind it (responsibility)', of: (d, i) => d.responsibility[i],
    legend: () => 'The expert that brought most of the token’s probability (weight × its own)'},
  keenest: {label: 'most confident expert', of: (d, i) => d.chance[i], legend: () => 'The expert that finds the token likeliest, whatever its weight'},
  probability: {label: 'probability', level: (d, i) => d.probability[i], most: () => 1,
    scale: 'Probability of the token in the merged distribution', unit: ''},
  entropy: {label: 'entropy', level: (d, i) => d.entropy[i], most: d => d.most.entropy,
    scale: 'Entropy of the merged distribution', unit: ' nats'},
  divergence: {label: 'divergence of the experts', level: (d, i) => d.divergence[i], most: d => d.most.divergence,
    scale: 'Divergence of the experts, each counted alike', unit: ' nats'},
  disagreement: {label: 'divergence, weighted', level: (d, i) => d.disagreement[i], most: d => d.most.disagreement,
    scale: 'Divergence of the experts, each counted by its weight', unit: ' nats'},
};

/**
 * What the map may show: one number a cell between `low` and `high` of the reply. `idle` says why it
 * would show the same in every cell, where it would.
 */
const SHARE = {low: () => 0, high: () => 1, ends: () => ['0%', '100%']}, ALONE = d => (d.experts.length < 2 ? 'one expert alone' : '');
const LAYERS = {
  deviation: {label: 'rise and fall of weights', of: (d, i) => deviations(d, i), low: d => -swing(d), high: d => swing(d),
    ends: d => [`−${points(swing(d))}`, `+${points(swing(d))} points`], around: true, idle: d => ALONE(d) || (constant(d) ? 'weights do not move' : '')},
  weight: {label: 'weights', of: (d, i) => d.weight[i], ...SHARE, idle: ALONE},
  responsibility: {label: 'responsibility', of: (d, i) => d.responsibility[i], ...SHARE, idle: ALONE},
  chance: {label: 'probabilities by expert', of: (d, i) => d.chance[i], ...SHARE, idle: () => ''},
};

for (const [name, layer] of Object.entries(LAYERS)) layer.name = name;

const STILL = 5e-4;  // a spread of weights below which they are the same at every token

/** The colouring that a reply gets: constant weights, and a single expert's, are never above their mean. */
function colouringOf(data, mode) {
  return COLOURINGS[mode === 'deviation' && still(data) ? 'responsibility' : mode];
}

/** The layer that a reply gets: the wished one, or one that says something of this reply, as its colours do. */
function layerOf(data, wished) {
  return [wished, 'responsibility', 'chance'].map(name => LAYERS[name]).find(layer => !layer.idle(data));
}

/** Whether weights are known not to move: of a first token nobody can say. */
function constant(data) {
  return data.text.length > 1 && still(data);
}

/** Whether every expert weighs the same at all tokens so far. */
function still(data) {
  return spread(data) < STILL;
}

/** Standard deviation of the weights over the reply, all experts together. */
function spread(data) {
  const count = data.text.length;
  if (count < 2) return 0;
  const variances = data.total.map((total, k) => Math.max(0, data.squares[k] / count - (total / count) ** 2));
  return Math.sqrt(sum(variances) / variances.length);
}

/** A deviation that is large in this reply: two standard deviations, and no less than a point. */
function swing(data) {
  return Math.max(0.01, 2 * spread(data));
}

/** By how much each expert weighs more, or less, than on average over the reply. */
function deviations(data, i) {
  const count = Math.max(1, data.text.length);
  return data.weight[i].map((w, k) => w - data.total[k] / count);
}

function risesOf(data, i) {
  return deviations(data, i).map(d => Math.max(0, d));
}

function points(value) {
  return (100 * value).toFixed(value < 0.1 ? 1 : 0);
}

function toldRise(name, value, weight) {
  return `${name} ${percent(weight)}, ${points(value)} points above its mean`;
}

/** How tokens from..to are drawn together: colour slot, strength 0 to 1, glyph, and words. */
function unitLook(data, mode, from, to) {
  const way = colouringOf(data, mode), tokens = Array.from({length: to - from}, (_, k) => from + k);
  const mean = of => sum(tokens.map(of)) / tokens.length;
  if (way.level) {
    const value = mean(i => way.level(data, i));
    const strength = Math.max(0, Math.min(1, value / (way.most(data) || 1)));
    return {slot: 'level', strength, glyph: '', words: `${way.label} ${value.toFixed(2)}${way.unit}`};
  }
  const each = tokens.map(i => way.of(data, i)), values = data.experts.map((_, k) => sum(each.map(one => one[k])) / tokens.length);
  const best = leader(values);
  if (best < 0 || values[best] <= 0) return {slot: '', strength: 0, glyph: '=', words: 'no expert leads'};
  const {slot, glyph, name} = data.experts[best], strength = Math.min(1, values[best] / (way.full?.(data) ?? 1));
  const words = way.told ? way.told(name, values[best], mean(i => data.weight[i][best])) : `${name} ${percent(values[best])}`;
  return {slot, strength, glyph, words};
}

/** What the colours of a reply mean, in words. */
function legendOf(data, mode) {
  const way = colouringOf(data, mode);
  if (way.level) return `${way.scale}: bar from 0 to ${way.most(data).toFixed(2)}${way.unit}`;
  if (data.experts.length < 2) return 'One expert alone wrote this reply';
  if (data.text.length < 2) return '';  // nothing has had the time to move
  return `${way === COLOURINGS[mode] ? '' : 'Weights do not move. '}${way.legend(data)}`;
}
