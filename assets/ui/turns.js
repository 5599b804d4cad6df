// A conversation: turns, and the versions of each turn's reply. Versions that were asked for
// together stand side by side; one of them, the active one, is what the next turn reads.

class Turn {
  constructor(actions) {
    Object.assign(this, {versions: [], active: 0, grid: false, trail: [], spot: -1, actions});
    this.node = make('section', 'mpd-turn');
    this.prompt = make('p', 'mpd-prompt');
    this.prompt.dir = 'auto';
    this.pager = make('div', 'mpd-pager');
    this.body = make('div', 'mpd-versions');
    const asked = make('div', 'mpd-asked');
    asked.append(this.prompt, this.pager);
    this.node.append(asked, this.body);
  }

  get version() { return this.versions[this.active]; }
  get visible() { return this.grid ? this.compared : [this.version]; }

  /** What stands side by side: those that were asked for together with the active one, or all. */
  get compared() {
    const {together} = this.version.plan, set = together && !this.all ? this.versions.filter(v => v.plan.together === together) : [];
    return set.length > 1 ? set : this.versions;
  }

  /** Whether what is in sight is older than its data. */
  get behind() { return this.stale || this.visible.some(version => version.painted !== version.rows.length + version.status); }

  add(version) {
    this.versions.push(version);
    this.body.append(version.node);
    this.arrange();
  }

  drop(version) {
    version.node.remove();
    this.versions = this.versions.filter(v => v !== version);
    this.trail = this.trail.filter(v => v !== version);
    this.spot = Math.min(this.spot, this.trail.length - 1);
    this.active = Math.max(0, Math.min(this.active, this.versions.length - 1));
    if (!this.versions.length) return;
    if (this.trail[this.spot]) this.active = this.versions.indexOf(this.trail[this.spot]);
    this.arrange();
  }

  /** Note what is shown, for undo: what was undone before is no longer ahead. */
  visit() {
    if (!this.version || this.trail[this.spot] === this.version) return;
    this.trail = [...this.trail.slice(0, this.spot + 1), this.version];
    this.spot = this.trail.length - 1;
    this.arrange();
  }

  /** What undo (-1) or redo (1) leads to, or undefined. */
  beside(way) { return this.trail[this.spot + way]; }

  travel(way) {
    if (!this.beside(way)) return;
    this.spot += way;
    this.show(this.versions.indexOf(this.trail[this.spot]));
  }

  show(index) {
    this.active = (index + this.versions.length) % this.versions.length;
    this.arrange();
  }

  /** One version, or all of them side by side. */
  arrange() {
    const several = this.versions.length > 1;
    this.grid = this.grid && several;
    this.node.classList.toggle('grid', this.grid);
    const {compared} = this;
    this.body.classList.toggle('three', compared.length === 3);  // in one row sooner: two and one would leave a hole
    this.versions.forEach((version, k) => {
      version.node.hidden = this.grid ? !compared.includes(version) : k !== this.active;
      version.node.classList.toggle('active', this.grid && k === this.active);
    });
    // Side by side with versions whose instruction was edited, each says which one it answers.
    const mixed = this.grid && compared.some(version => version.prompt !== this.version.prompt);
    this.prompt.textContent = mixed ? 'Versions of different instructions' : this.version.prompt;
    for (const version of this.versions) version.asked.textContent = mixed ? version.prompt : '';
    const page = way => {
      const button = makeButton(way < 0 ? '‹' : '›', '', () => this.actions.page(this, this.active + way));
      button.setAttribute('aria-label', way < 0 ? 'Version before' : 'Version after');
      return button;
    };
    const side = makeButton(this.grid ? 'One at a time' : 'Side by side', '', () => this.actions.arrange(this, !this.grid));
    const travel = (way, label) => {
      const button = makeButton(label, '', () => this.actions.travel(this, way));
      button.disabled = !this.beside(way);
      return button;
    };
    const others = compared.length < this.versions.length ? [makeButton('All versions', '', () => this.actions.arrange(this, true, true))]
      : this.all && this.version.plan.together ? [makeButton('Only these', '', () => this.actions.arrange(this, true))] : [];
    const held = [...this.pager.children].indexOf(document.activeElement), last = this.pager.children.length - 1;
    this.pager.replaceChildren(...(several ? [...(this.grid ? [] : [travel(-1, 'Undo'), travel(1, 'Redo')]), ...(this.grid ? [] : [page(-1), make('span', '', `${this.active + 1} of ${this.versions.length}`), page(1)]), ...(this.grid ? others : []), side] : []));
    if (held >= 0) this.holdFocus(held === last ? -1 : held);
  }

  /** Give the keyboard's focus to the pager's button at a place; to the last where that is off, or gone. */
  holdFocus(place) {
    const button = this.pager.children[place];
    (button && !button.disabled ? button : this.pager.lastElementChild)?.focus();
  }

  paint(look) {
    const rival = this.grid ? this.compared[0] : null;
    for (const version of this.visible) {
      version.paint(look, rival);
      version.painted = version.rows.length + version.status;
    }
    this.stale = look.view === 'read' && this.visible.some(version => !version.closed);
  }
}
