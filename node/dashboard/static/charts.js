// Curves over the rounds, by uPlot: scores, how far models are apart, bytes.
import { byId, show, table } from "./dom.js";
import { bytes, counted, decimal, percent, whole } from "./words.js";

const DASHES = [[], [7, 3], [2, 3], [10, 3, 2, 3], [14, 4], [4, 4], [10, 3, 2, 3, 2, 3], [2, 5]];
const LINES_MAX = 24;
const drawn = new Map();

const colours = new Map();

function colour(name) {
  if (!colours.has(name)) colours.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return colours.get(name);
}

/** Draw or redraw a chart. Series are [name, values, look]; the first row of `data` are rounds. */
function chart(id, numbers, series, format) {
  const place = byId(id);
  const key = JSON.stringify([series.map(([name, , look]) => [name, look]), place.clientWidth, colour("--ink")]);
  const data = [numbers, ...series.map(([, values]) => values)];
  const before = drawn.get(id);
  if (before && before.key === key) { before.plot.setData(data); return; }
  if (before) before.plot.destroy();
  const grid = { stroke: colour("--edge"), width: 0.6 };
  const axis = { stroke: colour("--dim"), grid, ticks: grid };
  const plot = new uPlot({
    width: Math.max(260, place.clientWidth), height: 260, legend: { show: series.length <= LINES_MAX, live: false },
    cursor: { y: false, drag: { x: true, y: false } }, scales: { x: { time: false } },
    axes: [{ ...axis, label: "round", labelSize: 18, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] },
      { ...axis, size: 64, values: (_, splits) => splits.map(format) }],
    series: [{ label: "round" }, ...series.map(([label, , look]) => ({
      label, stroke: colour(look.colour), width: look.width || 1.4, dash: look.dash || [], spanGaps: true,
      points: { show: numbers.length < 3 },
    }))],
  }, data, place);
  drawn.set(id, { plot, key });
}

function look(place, extra = {}) {
  return { colour: `--s${place % 8}`, dash: DASHES[place % 8], ...extra };
}

export function scores(state, rounds, metric, local) {
  const name = state.metrics[metric];
  const done = told(rounds);
  byId("scores-chart").hidden = !done.length;
  if (!done.length) { show(byId("scores-words"), "No site has told any score yet."); return; }
  const of = (told, place) => (told[place] && metric in told[place] ? told[place][metric] : null);
  const mean = done.map((round) => weighted(round, metric));
  const series = [["mean, by held-out cases", mean, { colour: "--ink", width: 2.6 }]];
  const places = state.sites.map((_, place) => place).filter((place) => done.some((round) => of(round.swarm, place) !== null));
  const crowd = places.length > LINES_MAX; // More lines than anybody can tell apart: their range instead.
  if (crowd) series.push(...range(done, "swarm", metric, "", 0));
  else for (const place of places) series.push([state.sites[place].name, done.map((round) => of(round.swarm, place)), look(place)]);
  if (local && crowd) series.push(...range(done, "local", metric, ", own training", 3));
  else if (local) {
    for (const place of places) series.push([`${state.sites[place].name}, own`, done.map((round) => of(round.local, place)), look(place, { width: 0.8, dash: [1, 3] })]);
  }
  chart("scores-chart", done.map((round) => round.round), series, (value) => String(Math.round(value * 1e4) / 1e4));
  const last = done[done.length - 1], first = mean.find((value) => value !== null), end = mean[mean.length - 1];
  show(byId("scores-words"), `${name} of the swarm's model, round by round: ${decimal(first)} at first, ${decimal(end)} in round ${last.round}, told by ${counted(Object.keys(last.swarm).length, "site")}${crowd ? ", each in the table below" : ""}.`);
  byId("scores-chart").setAttribute("aria-label", byId("scores-words").textContent);
}

/** The highest, the middle and the lowest of all sites, round by round. */
function range(done, which, metric, suffix, first) {
  const sorted = done.map((round) => Object.values(round[which]).filter((one) => metric in one).map((one) => one[metric]).sort((a, b) => a - b));
  const at = (share) => sorted.map((values) => (values.length ? values[Math.round(share * (values.length - 1))] : null));
  return [["highest site", 1], ["middle site", 0.5], ["lowest site", 0]].map(([name, share], i) => [`${name}${suffix}`, at(share), look(first + i)]);
}

export function lastScores(state, rounds) {
  const done = told(rounds);
  show(byId("scores-table"), done.length ? scoreTable(state, done[done.length - 1]) : null);
}

function told(rounds) {
  return rounds.filter((round) => Object.keys(round.swarm).length);
}

function weighted(round, metric) {
  let sum = 0, cases = 0;
  for (const [place, told] of Object.entries(round.swarm)) {
    if (metric in told && round.held_out[place]) { sum += told[metric] * round.held_out[place]; cases += round.held_out[place]; }
  }
  return cases ? sum / cases : null;
}

function scoreTable(state, round) {
  const columns = state.metrics.flatMap((name, i) => [["swarm", `${name}, swarm`, i], ["local", `${name}, own training`, i]])
    .filter(([which, , i]) => Object.values(round[which]).some((values) => i in values));
  const heads = [["Site", ""], ["Held-out cases", "n"], ...columns.map(([, name]) => [name, "n"])];
  const rows = Object.keys(round.swarm).map((place) => [state.sites[place].name, whole(round.held_out[place]),
    ...columns.map(([which, , i]) => decimal((round[which][place] || {})[i]))]);
  return table(`Round ${round.round}: the swarm's model, and what each site's own training had made of the model before`, heads, rows);
}

export function distance(rounds) {
  const done = rounds.filter((round) => round.distance_max !== null && round.committed_ms);
  byId("distance").hidden = !done.length;
  if (!done.length) return;
  chart("distance-chart", done.map((round) => round.round), [
    ["farthest pair", done.map((round) => round.distance_max), look(1)], ["mean", done.map((round) => round.distance_mean), look(0, { width: 2.2 })],
  ], (value) => percent(value));
  byId("distance-chart").setAttribute("aria-label", `Distance between models, of their norm: ${percent(done[done.length - 1].distance_max)} at most in round ${done[done.length - 1].round}`);
}

export function traffic(state, rounds) {
  const done = rounds.filter((round) => Object.keys(round.bytes).length);
  byId("traffic-chart").hidden = !done.length;
  if (!done.length) { show(byId("traffic-words"), "Nothing has been offered yet."); return; }
  const total = done.map((round) => Object.values(round.bytes).reduce((a, b) => a + b, 0));
  chart("traffic-chart", done.map((round) => round.round), [["updates of the round, all sites", total, look(0, { width: 2 })]], (value) => bytes(value));
  const last = done[done.length - 1], one = Math.max(...Object.values(last.bytes)), model = rounds.map((round) => round.model_bytes).find((size) => size) || 0;
  const ratio = model ? `, ${decimal(one / model, 2)} times the model's ${bytes(model)}` : "";
  const links = state.sites.filter((site) => site.link && !site.me);
  const sum = (field) => bytes(links.reduce((total, site) => total + (site.link[field] || 0), 0));
  const moved = links.length ? ` Since its links are up this site has received ${sum("received_bytes")} and sent ${sum("sent_bytes")} of blobs.` : "";
  show(byId("traffic-words"), `An update of round ${last.round} has ${bytes(one)}${ratio}.${moved}`);
  byId("traffic-chart").setAttribute("aria-label", byId("traffic-words").textContent);
}

export function again() {
  for (const { plot } of drawn.values()) plot.destroy();
  drawn.clear();
  colours.clear();
}

