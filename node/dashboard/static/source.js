// Where the page's data come from: news as they happen, answers to questions where a proxy holds news back, or the file
// itself. What is known is kept here: `state` as it was told last, and every round that was ever told.

const PATIENCE_MS = 15000; // A stream says something at least every ten seconds.
const POLL_MS = 2000;

export class Source {
  constructor(told, connected) {
    this.told = told;
    this.connected = connected;
    this.state = null;
    this.rounds = [];
    this.heard = 0;
    this.stream = null;
    this.polling = false;
  }

  get since() {
    return this.state ? this.state.committed : 0;
  }

  take(update) {
    this.heard = Date.now();
    this.state = { at_s: update.at_s, ...update.state };
    const known = new Map(this.rounds.map((one) => [one.round, one]));
    for (const one of update.rounds) known.set(one.round, one);
    this.rounds = [...known.values()].sort((a, b) => a.round - b.round);
    this.told();
  }
}

/** What a file carries. */
export class FileSource extends Source {
  constructor(told, connected, data) {
    super(told, connected);
    this.data = data;
  }

  begin() {
    this.take(this.data);
    this.connected(`As it stood on ${new Date(this.data.at_s * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`, "");
  }

  async roots() { return this.data.roots; }

  async entries() { return this.data.entries; }

  async blocks(from) {
    const held = document.getElementById("blocks");
    if (!held || from > 1) return new Uint8Array();
    return Uint8Array.from(atob(held.textContent), (c) => c.charCodeAt(0));
  }
}

export class LiveSource extends Source {
  async begin() {
    await this.poll();
    this.listen();
    setInterval(() => this.watch(), 1000);
  }

  listen() {
    if (this.stream) this.stream.close();
    this.opened = Date.now();
    this.stream = new EventSource(`events?since=${this.since}`);
    this.stream.onmessage = (event) => {
      this.polling = false;
      this.take(JSON.parse(event.data));
      this.connected("", "");
    };
    this.stream.onopen = () => { this.heard = Date.now(); };
    this.stream.onerror = () => { this.stream.close(); this.polling = true; };
  }

  /** A stream that is open and mute, or cut, is replaced by questions; now and then it is tried again. */
  watch() {
    const silent = Date.now() - this.heard;
    if (silent > PATIENCE_MS) this.polling = true;
    if (this.polling && silent >= POLL_MS && !this.asking) this.poll();
    if (this.polling && Date.now() - this.opened > 2 * PATIENCE_MS) this.listen();
  }

  async poll() {
    this.asking = true;
    try {
      const answer = await fetch(`api/v1/state?since=${this.since}`);
      if (!answer.ok) throw new Error(await reason(answer));
      this.take(await answer.json());
      this.connected("", "");
    } catch (error) {
      const since = this.heard ? `, what is shown is ${Math.round((Date.now() - this.heard) / 1000)} s old` : "";
      this.connected(`The page has no answer from its site${since}: ${error.message}`, "bad");
    } finally {
      this.asking = false;
    }
  }

  async roots() { return (await get("api/v1/roots")).json(); }

  async entries(query) { return (await get(`api/v1/entries?${new URLSearchParams(query)}`)).json(); }

  async blocks(from) { return new Uint8Array(await (await get(`api/v1/blocks?from=${from}`)).arrayBuffer()); }

  async verdict() { return (await get("api/v1/verdict")).json(); }
}

async function get(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await reason(answer));
  return answer;
}

async function reason(answer) {
  const text = await answer.text();
  try { return JSON.parse(text).error; } catch { return text.trim() || `${answer.status}`; }
}
