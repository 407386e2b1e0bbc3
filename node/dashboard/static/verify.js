// A check of the ledger that believes nobody's program but this one: hashes, the tree of RFC 6962, certificates and
// signatures, by WebCrypto. Layouts are those of docs/reference/ledger-format.md.

const HEADER_BYTES = 220, FINALIZE = 3, NOBODY = "00".repeat(32);
const AHEAD = 256; // Signatures that are checked side by side.

/** What does not hold; `at` says where, once that is known. */
export class Broken extends Error {
  constructor(words, at = "") { super(at ? `${at}: ${words}` : words); this.at = at; }
}

const text = new TextEncoder(), plain = new TextDecoder();
const DOMAIN = Object.fromEntries(["header", "entry", "vote"].map((name) => [name, text.encode(`swarm-ledger/${name}/v1\0`)]));

export function hex(data) {
  return [...data].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function unhex(digits) {
  return Uint8Array.from(digits.match(/../g) || [], (pair) => parseInt(pair, 16));
}

function joined(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) { whole.set(part, at); at += part.length; }
  return whole;
}

async function sha256(...parts) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", joined(...parts)));
}

/** Reads canonical MessagePack (arrays, integers, bytes, text, booleans). `spans` has where each value of a list lay. */
class Reader {
  constructor(data) { this.data = data; this.view = new DataView(data.buffer, data.byteOffset, data.length); this.at = 0; }

  take(count) {
    if (this.at + count > this.data.length) throw new Broken("a value is cut off");
    this.at += count;
    return this.at - count;
  }

  value() {
    const first = this.data[this.take(1)];
    if (first < 0x80) return first;
    if (first >= 0xe0) return first - 0x100;
    if (first >= 0x90 && first < 0xa0) return this.list(first & 15);
    if (first >= 0xa0 && first < 0xc0) return this.string(first & 31);
    switch (first) {
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return this.bytes(this.view.getUint8(this.take(1)));
      case 0xc5: return this.bytes(this.view.getUint16(this.take(2)));
      case 0xc6: return this.bytes(this.view.getUint32(this.take(4)));
      case 0xcc: return this.view.getUint8(this.take(1));
      case 0xcd: return this.view.getUint16(this.take(2));
      case 0xce: return this.view.getUint32(this.take(4));
      case 0xcf: return this.view.getBigUint64(this.take(8));
      case 0xd0: return this.view.getInt8(this.take(1));
      case 0xd1: return this.view.getInt16(this.take(2));
      case 0xd2: return this.view.getInt32(this.take(4));
      case 0xd3: return this.view.getBigInt64(this.take(8));
      case 0xd9: return this.string(this.view.getUint8(this.take(1)));
      case 0xda: return this.string(this.view.getUint16(this.take(2)));
      case 0xdc: return this.list(this.view.getUint16(this.take(2)));
      case 0xdd: return this.list(this.view.getUint32(this.take(4)));
      default: throw new Broken("a value is of no kind that a ledger has");
    }
  }

  bytes(count) { const at = this.take(count); return this.data.subarray(at, at + count); }

  string(count) { return plain.decode(this.bytes(count)); }

  list(count) {
    if (count > this.data.length) throw new Broken("a list is longer than what holds it");
    const items = [], spans = [];
    for (let i = 0; i < count; i += 1) {
      const begin = this.at;
      items.push(this.value());
      spans.push([begin, this.at]);
    }
    items.spans = spans;
    return items;
  }
}

function read(data) {
  const reader = new Reader(data), value = reader.value();
  if (reader.at !== data.length) throw new Broken("something follows a value that should be the last");
  return value;
}

function header(data) {
  if (data.length !== HEADER_BYTES) throw new Broken("a block's header has another size");
  const view = new DataView(data.buffer, data.byteOffset, data.length), number = (at) => Number(view.getBigUint64(at));
  return { epoch: number(0), view: number(8), height: number(16), parent: data.subarray(24, 56), parentView: number(56), time: number(64),
    first: number(72), count: view.getUint32(80), size: number(84), root: data.subarray(92, 124), entries: data.subarray(124, 156),
    justify: data.subarray(188, 220), bytes: data };
}

function same(a, b) {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

/** The roots of the perfect subtrees of a growing tree. */
class Tree {
  constructor() { this.size = 0; this.roots = []; }

  async append(leaf) {
    let hash = await sha256(new Uint8Array([0]), leaf);
    for (let carry = this.size; carry & 1; carry >>>= 1) hash = await sha256(new Uint8Array([1]), this.roots.pop(), hash);
    this.roots.push(hash);
    this.size += 1;
  }

  async root() {
    let hash = this.roots[this.roots.length - 1];
    for (let i = this.roots.length - 2; i >= 0; i -= 1) hash = await sha256(new Uint8Array([1]), this.roots[i], hash);
    return hash;
  }
}

/** Ed25519 as the browser has it; `known` is false where it has none. */
class Signatures {
  constructor() { this.keys = new Map(); this.due = []; this.checked = 0; this.known = true; this.at = "the charter"; }

  async begin() {
    try { await crypto.subtle.importKey("raw", unhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"), "Ed25519", false, ["verify"]); }
    catch { this.known = false; }
  }

  async check(key, message, signature, what) {
    if (!this.known) return;
    const one = this.one(key, message, signature, what, this.at);
    one.catch(() => {}); // Whoever settles hears of it.
    this.due.push(one);
    if (this.due.length >= AHEAD) await this.settle();
  }

  async one(key, message, signature, what, at) {
    const digits = hex(key);
    if (!this.keys.has(digits)) this.keys.set(digits, crypto.subtle.importKey("raw", key, "Ed25519", false, ["verify"]));
    if (!await crypto.subtle.verify("Ed25519", await this.keys.get(digits), signature, message)) throw new Broken(`the signature of ${what} does not verify`, at);
    this.checked += 1;
  }

  async settle() {
    const due = this.due;
    this.due = [];
    await Promise.all(due);
  }
}

function* records(data) {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  for (let at = 0; at < data.length;) {
    const length = view.getUint32(at);
    yield data.subarray(at + 4, at + 4 + length);
    at += 4 + length;
  }
}

/** The envelope of an entry without its signature, which is the last of its nine fields: what was signed, and hashed to its id. */
function unsigned(leaf, fields) {
  const body = leaf.slice(0, fields.spans[8][0]);
  body[0] = 0x98;
  return body;
}

/**
 * Check a ledger from its charter to its last block.
 *
 * `source` gives the blocks from a height on, and `roots` (the charter's entry; who may sign in each epoch). `progress` is told the
 * height so far. Returns what was checked; throws `Broken` with the first thing that does not hold.
 */
export async function verifyLedger(source, progress) {
  const given = await source.roots();
  const charter = unhex(given.charter), fields = read(charter);
  const ledger = await sha256(unsigned(charter, fields));
  if (hex(ledger) !== given.ledger_id) throw new Broken("the charter is not the one that this ledger's id was made of");
  const signatures = new Signatures();
  await signatures.begin();
  await founders(charter, fields, given.epochs[0], signatures);
  const tree = new Tree();
  await tree.append(charter);
  const told = { blocks: 0, entries: 1, certified: 0, signatures: 0, root: "", ledger: given.ledger_id, signed: signatures.known, later: given.epochs.length - 1 };
  let parent = ledger, parentView = 0, before = 0;
  for (let height = 1; ;) {
    const data = await source.blocks(height);
    if (!data.length) break;
    for (const record of records(data)) {
      const at = `block ${height}`;
      signatures.at = at;
      try {
        const [block, certificates, cover] = opened(record);
        const head = header(block.header);
        if (head.height !== height || head.first !== tree.size) throw new Broken("it is not the next one");
        if (!same(head.parent, parent) || head.parentView !== parentView || head.view <= before) throw new Broken("it does not extend the block before it");
        if (head.count !== block.leaves.length || !same(head.entries, await sha256(block.leavesBytes))) throw new Broken("its entries are not those that it commits to");
        if (!same(head.justify, await sha256(block.justifyBytes))) throw new Broken("its certificates are not those that it commits to");
        const epoch = given.epochs.find((one) => one.epoch === head.epoch);
        if (!epoch) throw new Broken("it is of an epoch that nobody has heard of");
        for (const leaf of block.leaves) {
          await entry(leaf, ledger, epoch, given.epochs, signatures);
          await tree.append(leaf);
        }
        if (tree.size !== head.size || !same(await tree.root(), head.root)) throw new Broken("the tree of all entries has another root");
        const hash = await sha256(DOMAIN.header, head.bytes);
        let certified = hash;
        for (const child of cover) certified = await sha256(DOMAIN.header, child);
        for (const certificate of certificates) {
          await quorum(certificate, ledger, epoch, certified, signatures);
          told.certified = height;
        }
        parent = hash; parentView = head.view; before = head.view;
        told.blocks = height; told.entries = tree.size; told.root = hex(head.root);
      } catch (error) {
        throw error instanceof Broken && !error.at ? new Broken(error.message, at) : error;
      }
      height += 1;
      if (height % 20 === 0) { progress(height); await new Promise((done) => setTimeout(done)); }
    }
    await signatures.settle();
  }
  await signatures.settle();
  told.signatures = signatures.checked;
  return told;
}

/** The first epoch's keys are those of the charter, which the ledger's id is made of, and every founder signed it. */
async function founders(charter, fields, epoch, signatures) {
  const terms = read(fields[7]), cards = terms[3];
  if (hex(fields[3]) !== NOBODY || cards.length !== epoch.vote_keys.length) throw new Broken("the charter has other members");
  cards.forEach((card, i) => {
    if (hex(card[2]) !== epoch.vote_keys[i] || !Object.values(epoch.authors).includes(hex(card[1]))) throw new Broken("the charter has other keys");
  });
  const n = cards.length, f = Math.floor((n - 1) / 3);
  if (epoch.quorum !== Math.floor((n + f) / 2) + 1) throw new Broken("the quorum is not that of so many members");
  const message = joined(text.encode("swarm-ledger/charter/v1\0"), fields[7]);
  for (const [place, signature] of read(fields[8])) await signatures.check(cards[place][1], message, signature, `${cards[place][0]} under the charter`);
}

function opened(record) {
  const [block, certificates, cover = []] = read(record);
  const span = (i) => record.subarray(block.spans[i][0], block.spans[i][1]);
  return [{ header: block[0], leaves: block[1], leavesBytes: span(1), justifyBytes: span(2) }, certificates, cover];
}

async function entry(leaf, ledger, epoch, epochs, signatures) {
  const fields = read(leaf);
  if (fields.length !== 9 || !same(fields[2], ledger)) throw new Broken("an entry belongs to another ledger");
  const author = hex(fields[3]);
  if (author === NOBODY) return; // Derived: what it says follows from the others', and the site's own check computes it again.
  const key = epoch.authors[author] || epochs.map((one) => one.authors[author]).find((one) => one);
  if (!key) throw new Broken("an entry's author is no member");
  await signatures.check(unhex(key), joined(DOMAIN.entry, ledger, unsigned(leaf, fields)), fields[8], `an entry of ${author.slice(0, 8)}`);
}

async function quorum(certificate, ledger, epoch, block, signatures) {
  const [number, view, kind, hash, signers, signed] = certificate;
  if (kind !== FINALIZE || Number(number) !== epoch.epoch || !same(hash, block)) throw new Broken("its certificate is for something else");
  if (signers.length < epoch.quorum || signers.length !== signed.length || signers.some((one, i) => one >= epoch.vote_keys.length || (i && one <= signers[i - 1]))) {
    throw new Broken("its certificate is not a quorum's");
  }
  const numbers = new DataView(new ArrayBuffer(17));
  numbers.setBigUint64(0, BigInt(number)); numbers.setBigUint64(8, BigInt(view)); numbers.setUint8(16, kind);
  const message = joined(DOMAIN.vote, ledger, new Uint8Array(numbers.buffer), hash);
  for (let i = 0; i < signers.length; i += 1) await signatures.check(unhex(epoch.vote_keys[signers[i]]), message, signed[i], `a vote for it`);
}
