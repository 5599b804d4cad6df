// The page's terms in plain words, shown where they stand.

const TERMS = {
  'method-mpd': 'Merged Preference Dimensions: one expert for each chosen toggle proposes the next token, and a small model, the PCM, says at every token how much each one counts.',
  'method-uniform': 'The chosen experts count alike at every token.',
  'method-static': 'The chosen experts count by constant weights: the same at every token.',
  'method-soup': 'Personalized soup: one model whose adapter is the mean of the chosen experts’ adapters. Parameters are merged, not proposals.',
  'method-prompting': 'The base model alone, with all chosen styles written into its prompt.',
  'method-vanilla': 'The base model alone, with your instruction and nothing else.',
  'method-expert': 'One expert alone writes the whole reply.',
  device: 'Where the reply was computed and in which number formats. Blocks: weights of few bits that share a scale, as GGUF files hold them; in brackets, what sums are computed in.',
  seed: 'The number that random draws start from. The same seed, settings and instruction give the same reply. At temperature 0 nothing is drawn.',
  weight: 'How much the Preference Control Model (PCM) listens to this expert for this token. The weights of all experts add up to 100%.',
  responsibility: 'How much of the chosen token’s probability this expert brought: weight × its probability for the token, as a share of the sum over experts. An expert with a large weight may still not be the one behind a token.',
  chance: 'How likely this expert alone finds the token that was chosen.',
  alone: 'The token that this expert alone finds likeliest.',
  probability: 'How likely the merged distribution finds the chosen token, before temperature, top-p and penalties.',
  rank: 'Place of the chosen token among all tokens, by merged probability. 1 is the likeliest.',
  entropy: 'How undecided the merged distribution is, in nats: 0 when one token is certain, about 11 when all tokens are alike.',
  divergence: 'Jensen-Shannon divergence: how far the experts’ proposals lie apart, each expert counted alike. 0 nats: they agree; 0.69: two experts share nothing. Exact: over the whole vocabulary.',
  disagreement: 'The same divergence, each expert counted by its weight: near 0 where one expert has nearly all the weight, however far the others lie apart.',
  start: 'What the experts’ shifts start from and are measured from: in the space “strength” this distribution is moved by how much more each expert likes a token than it does. It has no weight of its own.',
  'base-start': 'What the experts’ shifts start from: in the space “strength” this distribution is moved by how much more each expert likes a token than the anchor does. It has no weight of its own.',
  anchor: 'What the experts’ shifts are measured from: the model that all of them went on from. What they have in common with it takes no part.',
  others: 'What is left for all tokens that are not listed.',
  whatif: 'The merged distribution under other weights, from the probabilities that were recorded. It shows this one step; a reply that went on from another token would differ from there. To see that, regenerate.',
  branch: 'Writes the reply anew from this token on, under the same seed. The first tokens stay; the new reply becomes a version beside this one.',
  switches: 'How often the expert with the largest weight changes, per 100 tokens.',
  bytes: 'The token’s text in UTF-8, as hexadecimal bytes. A token that ends inside a character has no text of its own.',
};

/** A term that explains itself: to a pointer that rests on it, and when it is pressed. */
function term(key, label) {
  const button = makeButton(label, 'mpd-term', () => {
    const tip = button.closest('.mpd').querySelector('.mpd-tip'), box = button.getBoundingClientRect();
    tip.textContent = TERMS[key];
    tip.showPopover();
    const left = Math.max(8, Math.min(box.left, window.innerWidth - tip.offsetWidth - 8));
    const below = box.bottom + 6 + tip.offsetHeight < window.innerHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${below ? box.bottom + 6 : Math.max(8, box.top - tip.offsetHeight - 6)}px`;
  });
  button.title = TERMS[key];
  return button;
}
