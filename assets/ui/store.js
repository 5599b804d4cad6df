// What outlives a reload, Back and a lost connection: the conversation in IndexedDB, under an id of
// this tab; the draft in sessionStorage. Where the browser keeps nothing, the page works without.

const TABS_KEPT = 24;

/** A value of a browser storage that may be switched off. */
function recall(storage, key) {
  try { return window[storage].getItem(key); } catch { return null; }
}

function keep(storage, key, value) {
  try { window[storage].setItem(key, value); } catch { /* full, or switched off */ }
}

function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), b => b.toString(16).padStart(2, '0')).join('');
}

class Store {
  /** off: keep nothing, as in a page that was saved as a file. */
  constructor(pack, off = false) {
    this.pack = pack;
    this.off = off;
    this.tab = recall('sessionStorage', 'mpd-tab') ?? randomId();
    keep('sessionStorage', 'mpd-tab', this.tab);
    this.saving = null;
  }

  database() {
    this.opened ??= new Promise((done, failed) => {
      const asked = indexedDB.open('mpd-studio', 2);
      asked.onupgradeneeded = () => {  // what an older page kept is in another form
        for (const name of [...asked.result.objectStoreNames]) asked.result.deleteObjectStore(name);
        for (const name of ['tabs', 'versions']) asked.result.createObjectStore(name);
      };
      asked.onsuccess = () => done(asked.result);
      asked.onerror = () => failed(asked.error);
    });
    return this.opened;
  }

  /** Run some requests in one transaction and wait until it is on disk. */
  async transact(mode, act) {
    const database = await this.database();
    return new Promise((done, failed) => {
      const transaction = database.transaction(['tabs', 'versions'], mode);
      const answer = {};
      act(transaction.objectStore('tabs'), transaction.objectStore('versions'), answer);
      transaction.oncomplete = () => done(answer);
      transaction.onerror = transaction.onabort = () => failed(transaction.error);
    });
  }

  /** The turns of this tab as they were saved: [{active, grid, versions: [record]}]. */
  async load() {
    if (this.off) return [];
    const read = this.tab;
    await this.claim();
    try {
      const {tab} = await this.transact('readonly', (tabs, _, answer) => { tabs.get(read).onsuccess = e => { answer.tab = e.target.result; }; });
      setTimeout(() => this.prune().catch(() => {}), 3000);
      if (!tab || tab.pack !== this.pack) return [];
      const ids = tab.turns.flatMap(turn => turn.versions);
      const found = await this.transact('readonly', (_, versions, answer) => {
        for (const id of ids) versions.get(id).onsuccess = e => { if (e.target.result) answer[id] = e.target.result; };
      });
      return tab.turns.map(turn => ({...turn, versions: turn.versions.map(id => found[id]).filter(Boolean)}))
        .filter(turn => turn.versions.length > 0);
    } catch { return []; }
  }

  /** A tab that was duplicated begins with the other's conversation, and keeps its own: not the other's
   * as well, of which either would forget what it does not show. */
  async claim() {
    if (!navigator.locks) return;  // not over HTTP from elsewhere
    const held = await new Promise(done => {
      navigator.locks.request(`mpd-tab-${this.tab}`, {ifAvailable: true}, lock => { done(lock); return lock && new Promise(() => {}); }).catch(() => done(true));
    });
    if (held) return;
    this.tab = randomId();
    keep('sessionStorage', 'mpd-tab', this.tab);
    await this.claim();
  }

  /**
   * Save what changed, soon: frames come faster than it is worth writing. A reply is written as a whole,
   * so the longer it is the later; the server still knows what had not been saved.
   */
  soon(turns, size) {
    this.saving ??= setTimeout(() => this.now(turns()), Math.max(600, Math.min(5000, 5 * size)));
  }

  async now(turns) {
    clearTimeout(this.saving);
    this.saving = null;
    if (this.off) return;
    turns = turns.filter(turn => !turn.stored);
    const shape = turns.map(turn => ({active: turn.active, grid: turn.grid, versions: turn.versions.map(v => v.id),
      trail: turn.trail.map(v => v.id), spot: turn.spot}));
    const fresh = turns.flatMap(turn => turn.versions).filter(version => version.unsaved);
    for (const version of fresh) version.unsaved = false;
    try {
      await this.transact('readwrite', (tabs, versions) => {
        tabs.put({pack: this.pack, saved: Date.now(), turns: shape}, this.tab);
        for (const version of fresh) versions.put(version.record(), version.id);
        tabs.transaction.commit?.();  // without waiting for the answers: the page may be going
      });
    } catch {  // switched off, or full: the page goes on without, and tries again
      for (const version of fresh) version.unsaved = true;
    }
  }

  /** Forget the oldest tabs, and versions that no tab has. */
  async prune() {
    await this.transact('readwrite', (tabs, versions) => {
      tabs.getAllKeys().onsuccess = keys => {
        tabs.getAll().onsuccess = all => {
          const known = all.target.result.map((tab, k) => ({...tab, key: keys.target.result[k]})).sort((a, b) => b.saved - a.saved);
          for (const old of known.slice(TABS_KEPT)) tabs.delete(old.key);
          const used = new Set(known.slice(0, TABS_KEPT).flatMap(tab => tab.turns.flatMap(turn => turn.versions)));
          versions.getAllKeys().onsuccess = e => { for (const id of e.target.result) if (!used.has(id)) versions.delete(id); };
        };
      };
    });
  }
}
