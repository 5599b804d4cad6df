// The page's controls as values: from and to Gradio's order, drafts, and links.

class Form {
  constructor(pack) {
    this.pack = pack;
    this.names = pack.settings.map(setting => setting.name);
  }

  /** Gradio's list of values (prompt, poles, settings) as an object. */
  read(values) {
    const count = this.pack.dimensions.length;
    const settings = Object.fromEntries(this.names.map((name, k) => [name, values[1 + count + k]]));
    return {prompt: values[0] ?? '', preference: this.code(values.slice(1, 1 + count)), settings};
  }

  /** The inverse of `read`. */
  write({prompt, preference, settings}) {
    return [prompt, ...this.poles(preference), ...this.names.map(name => settings[name])];
  }

  /** As when the page is opened for the first time. */
  defaults() {
    return {prompt: '', preference: 'A'.repeat(this.pack.dimensions.length),
      settings: Object.fromEntries(this.pack.settings.map(setting => [setting.name, setting.value]))};
  }

  /** The settings that this page has, of any. */
  known(settings) {
    return Object.fromEntries(this.names.filter(name => settings[name] !== undefined).map(name => [name, settings[name]]));
  }

  /** A preference code: one letter per dimension, "-" leaves one out. */
  code(poles) {
    return this.pack.dimensions.map((dimension, d) => {
      const chosen = dimension.poles.findIndex(pole => pole.name === poles[d]);
      return chosen < 0 ? '-' : String.fromCharCode(65 + chosen);
    }).join('');
  }

  poles(code) {
    return this.pack.dimensions.map((dimension, d) => dimension.poles[code.charCodeAt(d) - 65]?.name ?? '');
  }

  /** Looks of the poles that a code chooses. */
  chosen(code) {
    return this.pack.dimensions.map((dimension, d) => dimension.poles[code.charCodeAt(d) - 65]).filter(Boolean);
  }

  /** Every preference that leaves no dimension out. */
  every() {
    return this.pack.dimensions.reduce((codes, dimension) => codes.flatMap(
      code => dimension.poles.map((_, p) => code + String.fromCharCode(65 + p))), ['']);
  }

  isCode(text) {
    return text.length === this.pack.dimensions.length
      && this.pack.dimensions.every((d, k) => text[k] === '-' || d.poles[text.charCodeAt(k) - 65] !== undefined);
  }

  /**
   * What a link asks for: {form, run, problems}; null where its query names nothing of ours.
   * Values that are out of bounds are left out, and said.
   */
  fromLink(search) {
    const query = new URLSearchParams(search), form = this.defaults(), problems = [];
    if (!['prompt', 'preference', 'run', ...this.names].some(name => query.has(name))) return null;
    form.prompt = (query.get('prompt') ?? '').slice(0, 20000);
    const code = (query.get('preference') ?? form.preference).toUpperCase();
    if (this.isCode(code)) form.preference = code;
    else problems.push(`preference “${shorten(code, 20)}”`);
    for (const setting of this.pack.settings) {
      if (!query.has(setting.name)) continue;
      const value = this.parse(setting, query.get(setting.name));
      if (value === null) problems.push(`${setting.name} “${shorten(query.get(setting.name), 20)}”`);
      else form.settings[setting.name] = value;
    }
    return {form, run: query.get('run') === '1' && form.prompt.trim() !== '' && problems.length === 0, problems};
  }

  parse(setting, text) {
    if (setting.choices.length > 0) return setting.choices.includes(text) ? text : null;
    const number = text.trim() === '' ? NaN : Number(text);
    const fits = Number.isFinite(number) && number >= setting.low && number <= setting.high && (!setting.whole || Number.isInteger(number));
    return fits ? number : null;
  }

  /** A link that restores prompt, toggles and whatever is not the pack's default. */
  toLink({prompt, preference, settings}) {
    const query = new URLSearchParams({prompt, preference});
    for (const setting of this.pack.settings) {
      const value = settings[setting.name];
      if (value !== undefined && (value !== setting.value || ['method', 'seed'].includes(setting.name))) query.set(setting.name, value);
    }
    return `${location.origin}${location.pathname}?${query}`;
  }
}

/** Put text on the clipboard, also where the page was not opened over HTTPS. */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const box = make('textarea', 'mpd-off');
    box.value = text;
    document.body.append(box);
    box.select();
    const done = document.execCommand('copy');
    box.remove();
    return done;
  }
}
