// The choice of columns to compare: a method and a preference each.

const MOST_REPLIES = 4;

class Columns {
  constructor(node, form, pack) {
    Object.assign(this, {node, form, pack, columns: []});
  }

  /** As first shown: the pack's main methods under one preference. */
  start(preference) {
    if (this.columns.length) return;
    const methods = ['mpd', 'uniform', 'prompting', 'vanilla'].filter(name => this.pack.methods[name]);
    for (const method of methods.slice(0, 3)) this.add(method, preference);
  }

  add(method = 'mpd', preference = this.form.defaults().preference) {
    if (this.columns.length >= MOST_REPLIES) return;
    const column = {node: make('div', 'mpd-column'), method: this.choice('Method', Object.entries(this.pack.methods), method),
      preference: this.choice('Preference', this.form.every().map(code => [code, this.label(code)]), preference)};
    const remove = makeButton('×', 'mpd-step', () => {
      column.node.remove();
      this.columns = this.columns.filter(one => one !== column);
    });
    remove.setAttribute('aria-label', 'Remove this column');
    column.node.append(column.method, column.preference, remove);
    this.columns.push(column);
    this.node.append(column.node);
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
