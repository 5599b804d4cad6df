// The choice of columns to compare: a method and a preference each.

const FEWEST_COMPARED = 2, MOST_COMPARED = 4;

class Columns {
  /** add: the button that adds one, which is off where there are as many as may be. */
  constructor(node, add, form, pack) {
    Object.assign(this, {node, more: add, form, pack, columns: []});
  }

  /** As first shown: the pack's main methods under one preference. */
  start(preference) {
    if (this.columns.length) return;
    const methods = ['mpd', 'uniform', 'prompting', 'vanilla'].filter(name => this.pack.methods[name]);
    for (const method of methods.slice(0, 3)) this.add(method, preference);
    while (this.columns.length < FEWEST_COMPARED) this.add();
  }

  /** By itself a column differs from those that are there in its method alone. */
  add(method = this.unused(), preference = this.columns.at(-1)?.preference.value ?? this.form.defaults().preference) {
    if (this.columns.length >= MOST_COMPARED) return;
    const column = {node: make('div', 'mpd-column'), method: this.choice('Method', Object.entries(this.pack.methods), method),
      preference: this.choice('Preference', this.form.every().map(code => [code, this.label(code)]), preference)};
    const remove = makeButton('×', 'mpd-step', () => {
      column.node.remove();
      this.columns = this.columns.filter(one => one !== column);
      this.bound();
      this.columns.at(-1).method.focus();  // the button that had the focus is gone
    });
    remove.setAttribute('aria-label', 'Remove this column');
    column.node.append(column.method, column.preference, remove);
    this.columns.push(column);
    Object.assign(column, {remove});
    this.node.append(column.node);
    this.bound();
  }

  unused() {
    const used = this.columns.map(column => column.method.value);
    return Object.keys(this.pack.methods).find(name => !used.includes(name)) ?? 'mpd';
  }

  /** A comparison has two to four columns. */
  bound() {
    this.more.disabled = this.columns.length >= MOST_COMPARED;
    for (const {remove} of this.columns) remove.disabled = this.columns.length <= FEWEST_COMPARED;
  }

  choice(label, options, chosen) {
    const select = make('select');
    select.setAttribute('aria-label', label);
    select.append(...options.map(([value, text]) => choiceOf(value, text.split(':')[0])));
    select.value = chosen;
    if (select.selectedIndex < 0) select.selectedIndex = 0;
    return select;
  }

  label(code) {
    return this.form.chosen(code).map(pole => `${pole.glyph} ${pole.name}`).join('  ');
  }

  chosen() {
    return this.columns.map(({method, preference}) => ({method: method.value, preference: preference.value}));
  }
}
