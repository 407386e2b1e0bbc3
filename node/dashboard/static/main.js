// The page as a whole: what is drawn when, and what its controls do.
import * as charts from "./charts.js";
import { byId, show } from "./dom.js";
import { explore, head, refresh, verifyHere, verifyThere } from "./ledger.js";
import { network } from "./network.js";
import { overview } from "./overview.js";
import { columnAt, matrix, timeline } from "./rounds.js";
import { contributions } from "./sites.js";
import { FileSource, LiveSource } from "./source.js";

const REPLAY_MS = 400;
const view = { chosen: null, metric: 0, local: false, playing: null, drawn: "", due: [] };

const embedded = byId("data");
const source = globalThis.swarmPage = embedded ? new FileSource(told, connected, JSON.parse(embedded.textContent)) : new LiveSource(told, connected);

function connected(text, kind) {
  const place = byId("connection");
  show(place, text);
  place.className = kind;
}

function told() {
  const state = source.state;
  overview(state);
  head(state);
  refresh(source);
  draw();
}

/** Draw what depends on rounds, as of the chosen one; nothing that would look the same. */
function draw(anew = false) {
  const state = source.state;
  if (!state) return;
  const last = source.rounds.length ? source.rounds[source.rounds.length - 1].round : 0;
  const committed = source.rounds.filter((round) => round.committed_ms);
  const latest = committed.length ? committed[committed.length - 1].round : last;
  const number = view.chosen === null ? latest : Math.min(view.chosen, last);
  const rounds = view.chosen === null ? source.rounds : source.rounds.filter((round) => round.round <= number);
  const chosen = source.rounds.find((round) => round.round === number) || null;
  if (view.network !== state || (chosen && chosen.pairs.length)) network(state, chosen);
  view.network = state;
  const range = byId("round");
  range.max = Math.max(1, last);
  range.value = number || 1;
  show(byId("round-shown"), last ? `${number} of ${last}${view.chosen === null ? ", the latest" : ""}` : "none yet");
  byId("play").hidden = last < 2;
  const key = JSON.stringify([number, view.metric, view.local, rounds.slice(-4), state.sites.map((site) => [site.name, site.member, site.share])]);
  if (key === view.drawn && !anew) return;
  view.drawn = key;
  const select = byId("metric");
  if (select.options.length !== state.metrics.length) show(select, state.metrics.map((name, i) => { const option = document.createElement("option"); option.value = i; option.textContent = name; return option; }));
  soon([
    () => timeline(state, chosen),
    () => matrix(state, rounds, chosen),
    () => charts.scores(state, rounds, view.metric, view.local),
    () => charts.lastScores(state, rounds),
    () => { charts.distance(rounds); charts.traffic(state, rounds); },
    () => contributions(state, rounds),
  ]);
}

/** Do these one after the other, a frame between, so that what somebody does next is answered at once; drop what was due. */
function soon(parts) {
  const idle = !view.due.length;
  view.due = parts;
  if (idle) setTimeout(next);
}

function next() {
  const part = view.due.shift();
  if (!part) return;
  part();
  if (view.due.length) requestAnimationFrame(() => setTimeout(next));
}

function choose(number) {
  view.chosen = number;
  draw();
}

function stop() {
  if (view.playing) clearInterval(view.playing);
  view.playing = null;
  show(byId("play"), "Replay");
}

byId("round").addEventListener("input", (event) => { stop(); choose(Number(event.target.value)); });
byId("latest").addEventListener("click", () => { stop(); choose(null); });
byId("play").addEventListener("click", () => {
  if (view.playing) { stop(); return; }
  const last = source.rounds[source.rounds.length - 1].round;
  choose(view.chosen === null || view.chosen >= last ? source.rounds[0].round : view.chosen);
  show(byId("play"), "Stop");
  // As far as there was anything when it began: a quick run has more rounds every time one is shown.
  view.playing = setInterval(() => {
    if (view.chosen === null || view.chosen >= last) stop();
    else choose(view.chosen + 1);
  }, REPLAY_MS);
});
byId("matrix").addEventListener("click", (event) => {
  const closed = source.rounds.filter((round) => round.closed_ms), round = closed[columnAt(event)];
  if (round) { stop(); choose(round.round); }
});
byId("metric").addEventListener("change", (event) => { view.metric = Number(event.target.value); draw(); });
byId("local").addEventListener("change", (event) => { view.local = event.target.checked; draw(); });
byId("verify-here").addEventListener("click", () => verifyHere(source));
byId("verify-there").addEventListener("click", () => verifyThere(source));
byId("filter").addEventListener("submit", (event) => { event.preventDefault(); explore(source, false); });
byId("older").addEventListener("click", () => explore(source, true));
let resized = null;
const again = () => { clearTimeout(resized); resized = setTimeout(() => { charts.again(); draw(true); }, 150); };
addEventListener("resize", again);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);

if (embedded) { byId("verify-there").hidden = true; byId("filter").hidden = true; byId("older").hidden = true; }
Promise.resolve(source.begin()).then(() => explore(source, false));
