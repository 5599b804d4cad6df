// A reply that leaves another one: from a pinned token on, under other weights or with another token.

/** Whether the engine can go on from a token of this reply: it has to be its own pack's. */
function canBranch(version) {
  const {head, plan} = version;
  return state.engine.ready && !state.engine.offline && version.closed && version.status !== 'refused'
    && (!plan.origin || head?.pack === pack.name) && (Object.hasOwn(pack.methods, plan.settings.method) || plan.settings.method?.startsWith('static:'));
}

/** How a branch is told from the reply that it left. */
function branchName({branch, names}) {
  const at = `from token ${branch.prefix.length + 1}`;
  if (branch.token !== null) return `${at}: “${shorten(branch.text ?? '', 16)}” instead`;
  if (!branch.weights) return at;
  const shares = branch.weights.map((w, k) => `${shorten(names[k] ?? '', 12)} ${percent(w)}`).join(', ');
  return `${at}${branch.lasting ? ' on' : ' alone'}: ${shares}`;
}

/** Write a reply anew from token i on; `changes` are those of `request.Branch` in Python. */
function branchFrom(version, i, {token = null, text = null, weights = null, lasting = false}) {
  const {preference, settings} = version.plan;
  if (side.contains(document.activeElement)) log.focus({preventScroll: true});  // the button goes with the token's numbers
  askFor({prompt: version.prompt, turn: turnOf(version), replies: [{
    preference, settings, from: version, names: version.data.experts.map(e => e.name),
    branch: {prefix: version.data.id.slice(0, i), token, text, weights, lasting},
  }]});
}

/** What the server is told of a branch. */
function asked({branch}) {
  if (!branch) return {};
  const {prefix, token, weights, lasting} = branch;
  return {branch: {prefix, token, weights, lasting}};
}

/** The buttons below the sliders. */
function branchButtons(version, i, weights) {
  const box = make('div', 'mpd-presets mpd-branch');
  const button = (label, title, lasting) => {
    const made = makeButton(label, '', () => branchFrom(version, i, {weights: weights(), lasting}));
    made.title = title;
    return made;
  };
  box.append(
    button('Regenerate this token', 'With these weights for this token alone; those after it are weighed as usual', false),
    button('… and all that follow', 'With these weights for this token and every later one', true));
  return box;
}
