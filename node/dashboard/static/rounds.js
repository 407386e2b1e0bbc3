// Rounds: where the time of one went, site by site, and who was in which.
import { byId, el, show } from "./dom.js";
import { counted, date, ranges, seconds } from "./words.js";

const LEFT = 130, WIDTH = 760, ROW = 20;
const STEPS = [["train", "trains and sends"], ["wait", "waits for the close"], ["mix", "averages"], ["attest", "waits for agreement"]];

/** When each step of a site's round began and ended, in milliseconds after the round began. */
function steps(round, place) {
  const offered = round.offered[place], attested = round.attested[place];
  const end = round.committed_ms || round.closed_ms || Math.max(0, ...Object.values(round.offered));
  const marks = [round.began_ms, offered, round.closed_ms || undefined, attested, end || undefined];
  const found = [];
  let from = marks[0];
  STEPS.forEach(([kind], i) => {
    const to = marks[i + 1];
    if (from && to && to > from) found.push([kind, from - round.began_ms, to - round.began_ms]);
    if (to) from = Math.max(from, to);
    else if (i === 0) from = undefined;
  });
  return found;
}

/** The closed rounds that a site has no work in, as it was not there or was left out. */
export function without(closed, place) {
  return closed.filter((round) => round.missing.includes(place) || round.rejected.some(([one]) => one === place)).map((round) => round.round);
}

/** Rounds in words, but for those that would fill a line. */
export function brief(numbers) {
  const said = ranges(numbers);
  return said.length > 40 ? counted(numbers.length, "round") : said;
}

export function timeline(state, round) {
  if (!round || !round.began_ms) { show(byId("timeline"), el("p", {}, "No round has begun.")); return; }
  const left = new Map(round.rejected);
  const places = state.sites.map((_, place) => place).filter((place) => place in round.offered || place in round.attested
    || round.missing.includes(place) || left.has(place) || (state.sites[place].member && !round.closed_ms));
  const drawn = places.map((place) => [place, steps(round, place)]);
  const last = Math.max(1, ...drawn.flatMap(([, parts]) => parts.map(([, , to]) => to)));
  const x = (ms) => LEFT + (ms / last) * (WIDTH - LEFT - 10);
  const rows = drawn.map(([place, parts], i) => {
    const site = state.sites[place], said = parts.map(([kind, from, to]) => `${words(kind)} ${seconds((to - from) / 1000)}`).join(", ");
    return el("g", { class: "row" },
      el("title", {}, `${site.name}: ${said || "nothing is told of it"}`),
      el("text", { x: LEFT - 8, y: i * ROW + 14, "text-anchor": "end" }, site.name.length > 17 ? `${site.name.slice(0, 16)}…` : site.name),
      parts.map(([kind, from, to]) => el("rect", { x: x(from).toFixed(1), y: i * ROW + 3, height: ROW - 6, class: `step ${kind}`,
        width: Math.max(1, x(to) - x(from)).toFixed(1) })),
      parts.length ? null : el("text", { x: LEFT + 4, y: i * ROW + 14, class: "faint" }, left.has(place) ? `left out: ${left.get(place)}` : round.missing.includes(place) ? "not there" : "…"));
  });
  const axis = [0, 0.25, 0.5, 0.75, 1].map((share) => [
    el("line", { x1: x(share * last), x2: x(share * last), y1: 0, y2: places.length * ROW, class: "tick" }),
    el("text", { x: x(share * last), y: places.length * ROW + 15, "text-anchor": share === 1 ? "end" : "middle" }, seconds((share * last) / 1000)),
  ]);
  const drawing = el("svg", { viewBox: `0 0 ${WIDTH} ${places.length * ROW + 20}`, class: "gantt", role: "img", "aria-label": summary(state, round) }, axis, rows);
  const legend = el("ul", { class: "legend" }, STEPS.map(([kind, text]) => el("li", {}, el("span", { class: `swatch ${kind}` }), text)));
  byId("timeline").replaceChildren(el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Timeline of the round" }, drawing), el("figcaption", {}, summary(state, round)), legend);
}

function words(kind) {
  return STEPS.find(([name]) => name === kind)[1];
}

function summary(state, round) {
  const name = (place) => state.sites[place].name;
  const offers = Object.entries(round.offered).map(([place, ms]) => [ms, Number(place)]).sort((a, b) => a[0] - b[0]);
  const took = round.committed_ms ? `took ${seconds((round.committed_ms - round.began_ms) / 1000)}, committed ${date(round.committed_ms)}`
    : round.closed_ms ? "is closed and not committed yet" : "is open";
  const parts = [`Round ${round.round} ${took}`];
  if (offers.length > 1) {
    const [first, last] = [offers[0], offers[offers.length - 1]];
    parts.push(`${name(last[1])} offered last, ${seconds((last[0] - first[0]) / 1000)} after ${name(first[1])}`);
  }
  if (round.missing.length) parts.push(`without ${round.missing.map(name).join(", ")}`);
  if (round.late.length) parts.push(`with earlier work of ${round.late.map(name).join(", ")}`);
  for (const [place, why] of round.rejected) parts.push(`the update of ${name(place)} was left out: ${why}`);
  return `${parts.join("; ")}. Times are by each site's own clock.`;
}

// --- who was in which round ---------------------------------------------------------------------------------------

const KINDS = [["in", "in the round; darker for more weight"], ["late", "in it with earlier work"], ["rejected", "left out"], ["missing", "not there"]];

export function matrix(state, rounds, chosen) {
  const canvas = byId("matrix"), names = state.sites.map((site) => site.name);
  const style = getComputedStyle(document.documentElement);
  const colours = Object.fromEntries(["--ink", "--s0", "--s4", "--bad", "--edge"].map((name) => [name, style.getPropertyValue(name).trim()]));
  const room = Math.max(200, canvas.parentElement.clientWidth), gutter = Math.min(140, room * 0.3);
  const closed = rounds.filter((round) => round.closed_ms), ratio = window.devicePixelRatio || 1;
  const cell = Math.max(1, Math.min(16, (room - gutter - 2) / Math.max(1, closed.length))), row = names.length > 25 ? 10 : 16;
  const width = Math.round(gutter + cell * closed.length + 2), height = names.length * row + 4;
  canvas.width = width * ratio; canvas.height = height * ratio;
  canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.clearRect(0, 0, width, height);
  pen.font = `${row > 12 ? 12 : 9}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  pen.fillStyle = colours["--ink"];
  names.forEach((name, i) => pen.fillText(name, 0, i * row + row / 2 + 1, gutter - 8));
  const gap = cell > 3 ? 1 : 0;
  closed.forEach((round, j) => {
    const most = Math.max(...Object.values(round.weights), 1e-9), left = gutter + j * cell;
    const paint = (place, kind, alpha) => {
      pen.globalAlpha = alpha;
      pen.fillStyle = colours[kind];
      pen.fillRect(left, place * row + 2, Math.max(1, cell - gap), row - 3);
    };
    for (const [place, weight] of Object.entries(round.weights)) paint(place, round.late.includes(Number(place)) ? "--s4" : "--s0", 0.3 + 0.7 * (weight / most));
    for (const [place] of round.rejected) paint(place, "--bad", 1);
    for (const place of round.missing) paint(place, "--edge", 1);
    pen.globalAlpha = 1;
    if (chosen && round.round === chosen.round) {
      pen.strokeStyle = colours["--ink"];
      pen.strokeRect(left - 0.5, 0.5, Math.max(2, cell - gap) + 1, height - 1);
    }
  });
  canvas.dataset.gutter = gutter; canvas.dataset.cell = cell;
  const said = gaps(state, closed);
  canvas.setAttribute("aria-label", `Which sites were in which of ${counted(closed.length, "round")}. ${said}`);
  show(byId("matrix-words"), `${counted(closed.length, "closed round")}, one column each. ${said}`);
  show(byId("matrix-legend"), KINDS.map(([kind, text]) => el("li", {}, el("span", { class: `swatch ${kind}` }), text)));
}

function gaps(state, closed) {
  const found = state.sites.map((site, place) => [site.name, without(closed, place)]).filter(([, numbers]) => numbers.length);
  if (!found.length) return "Every site is in every round.";
  const said = found.slice(0, 6).map(([name, numbers]) => `${name} is not in ${brief(numbers)}`);
  return `${said.join("; ")}${found.length > 6 ? `; and ${found.length - 6} more sites are not in all of them` : ""}.`;
}

/** The closed round that is drawn at a place of the matrix, by its index. */
export function columnAt(event) {
  const canvas = byId("matrix");
  return Math.floor((event.offsetX - Number(canvas.dataset.gutter)) / Number(canvas.dataset.cell));
}
