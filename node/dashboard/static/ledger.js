// The ledger: its entries, latest first, and two checks of it, one in this browser and one by the site's own program.
import { byId, el, marked, show, table } from "./dom.js";
import { Broken, verifyLedger } from "./verify.js";
import { counted, date, seconds, whole } from "./words.js";

const REFRESH_MS = 3000;
const shown = { entries: [], next: null, older: false, asking: true, asked: 0 };

export function head(state) {
  show(byId("ledger-head"), el("dl", { class: "facts" },
    [["Ledger", state.ledger_id], ["Root", state.root], ["Blocks", whole(state.blocks)], ["Entries", whole(state.entries)]]
      .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, el("code", {}, value))))),
    state.trouble ? el("p", { class: "verdict bad" }, marked(state.trouble)) : null);
  const authors = byId("filter-author");
  if (authors.options.length !== state.sites.length + 1) show(authors, el("option", { value: "" }, "any"), state.sites.map((site) => el("option", { value: site.name }, site.name)));
  if (!byId("filter-kind").options.length) show(byId("filter-kind"), el("option", { value: "" }, "any"), state.kinds.map((kind) => el("option", { value: kind }, kind)));
}

/** Show what has come since, unless somebody reads what is older, or one of the entries. */
export function refresh(source) {
  const newest = shown.entries.length ? shown.entries[0].index : -1;
  const reading = shown.older || byId("entries").querySelector("details[open]") || byId("entries").scrollTop > 0;
  if (newest + 1 < source.state.entries && !reading && !shown.asking && Date.now() - shown.asked > REFRESH_MS) explore(source, false);
}

export async function explore(source, older) {
  shown.asking = true;
  shown.asked = Date.now();
  shown.older = older;
  const query = { count: 50 };
  for (const [name, id] of [["round", "filter-round"], ["author", "filter-author"], ["kind", "filter-kind"]]) {
    const value = byId(id).value.trim();
    if (value) query[name] = value;
  }
  if (older && shown.next !== null) query.before = shown.next;
  try {
    const found = await source.entries(query);
    shown.entries = older ? [...shown.entries, ...found.entries] : found.entries;
    shown.next = found.next;
    show(byId("entries"), rows());
  } catch (error) {
    show(byId("entries"), el("p", { class: "bad" }, `The entries cannot be shown: ${error.message}`));
  }
  shown.asking = false;
  byId("older").hidden = shown.next === null;
}

function rows() {
  if (!shown.entries.length) return el("p", {}, shown.next === null ? "No entry is like that." : "None so far: look at older ones.");
  const heads = [["Entry", "n"], ["Written", ""], ["By", ""], ["Kind", ""], ["What it says", "words"], ["Block", "n"]];
  return table(`${counted(shown.entries.length, "entry")}, latest first; times are by their authors' clocks`, heads, shown.entries.map((one) => [
    whole(one.index), date(one.time_ms), one.author, one.kind,
    el("details", {}, el("summary", {}, one.text), el("pre", {}, JSON.stringify({ id: one.id, ...one.body }, null, 1))), whole(one.height),
  ]));
}

export async function verifyHere(source) {
  const began = performance.now(), say = (...parts) => show(byId("verdict"), ...parts);
  say(el("p", {}, "Reading …"));
  if (!globalThis.crypto || !crypto.subtle) { say(el("p", { class: "verdict bad" }, "This browser checks nothing on a page that is neither encrypted nor local.")); return; }
  try {
    const told = await verifyLedger(source, (height) => say(el("p", {}, `Checked ${whole(height)} blocks …`)));
    if (!told.blocks && source.state.blocks) { say(el("p", { class: "verdict unsure" }, "The ledger is too long to be in this file; check it with `swarm ledger verify`.")); return; }
    const what = told.signed ? `${counted(told.signatures, "signature")}, ` : "";
    const not = [
      told.signed ? "" : "This browser knows no Ed25519, so that no signature was checked.",
      told.later ? "The keys of members that came later, and what a round's close and commit follow from, were not checked here: the site's own check does that."
        : "What a round's close and commit follow from was not checked here: the site's own check does that.",
    ].filter(Boolean).join(" ");
    say(el("p", { class: "verdict good" }, el("strong", {}, "Holds. "), `${counted(told.entries, "entry")} in ${counted(told.blocks, "block")}: ${what}every hash, and the root `,
      el("code", {}, told.root), ` — ${seconds((performance.now() - began) / 1000)}. Compare the root with another member.`), el("p", { class: "dim" }, not));
  } catch (error) {
    say(el("p", { class: "verdict bad" }, el("strong", {}, error instanceof Broken ? "Does not hold. " : "Not checked. "), error.message));
  }
}

export async function verifyThere(source) {
  const say = (...parts) => show(byId("verdict"), ...parts);
  say(el("p", {}, "The site reads and checks its whole ledger …"));
  try {
    const found = await source.verdict();
    const data = found.told && found.told.data, error = found.told && found.told.error;
    if (found.holds && data) {
      say(el("p", { class: "verdict good" }, el("strong", {}, "Holds. "), `${counted(data.entries, "entry")} in ${counted(data.blocks, "block")}, ${counted(data.certificates, "certificate")}, ${counted(data.rounds, "round")} recomputed; root `, el("code", {}, data.root)));
    } else {
      say(el("p", { class: "verdict bad" }, el("strong", {}, "Does not hold. "), error ? [`${error.message}. `, marked(error.hint || "")] : found.text || "the check failed"));
    }
  } catch (error) {
    say(el("p", { class: "verdict bad" }, el("strong", {}, "Not checked. "), error.message));
  }
}
