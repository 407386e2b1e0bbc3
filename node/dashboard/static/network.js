// Who is there, and how good the links are, as this site sees it: a drawing, and a table that says the same.
import { byId, el, show, table } from "./dom.js";
import { bytes, latency, seconds } from "./words.js";

const SIZE = 300, RADIUS = 112, LABELS_MAX = 60;

export function network(state, round) {
  show(byId("network-drawing"), drawing(state, round), el("figcaption", {}, words(state)));
  show(byId("network-table"), links(state));
}

function tone(site, state) {
  if (site.me) return state.node ? "up" : state.complete ? "unknown" : "away";
  if (!site.link) return "unknown";
  return site.link.refused ? "denied" : site.link.absent ? "away" : site.link.linked ? "up" : "stale";
}

function drawing(state, round) {
  const sites = state.sites.filter((site) => site.member);
  const place = (i) => {
    const angle = (2 * Math.PI * i) / sites.length - Math.PI / 2;
    return [SIZE / 2 + RADIUS * Math.cos(angle), SIZE / 2 + RADIUS * Math.sin(angle), angle];
  };
  const me = sites.findIndex((site) => site.me);
  const index = new Map(sites.map((site, i) => [state.sites.indexOf(site), i]));
  const pairs = (round && round.pairs ? round.pairs : []).filter(([a, b]) => index.has(a) && index.has(b));
  const met = pairs.map(([a, b]) => line(place(index.get(a)), place(index.get(b)), "met"));
  const own = me < 0 ? [] : sites.map((site, i) => (i === me ? null
    : line(place(me), place(i), `link ${tone(site, state)}`, site.link ? site.link.rate_bytes_s : 0,
    Math.min(1, 12 / sites.length))));
  const radius = sites.length > 30 ? 4 : 7;
  const nodes = sites.map((site, i) => {
    const [x, y, angle] = place(i);
    const right = Math.cos(angle) >= -0.01;
    const label = sites.length <= LABELS_MAX && el("text", {
      x: x + (right ? 1 : -1) * (radius + 5) * Math.abs(Math.cos(angle)), y: y + 4 + Math.sin(angle) * (radius + 9),
      "text-anchor": Math.abs(Math.cos(angle)) < 0.2 ? "middle" : right ? "start" : "end",
    }, short(site.name));
    const kind = tone(site, state);
    const shape = kind === "denied" || kind === "away"
      ? el("path", { d: `M${x - radius} ${y - radius}L${x + radius} ${y + radius}M${x + radius} ${y - radius}L${x - radius} ${y + radius}` })
      : el("circle", { cx: x, cy: y, r: radius });
    return el("g", { class: `node ${kind}${site.me ? " me" : ""}`, "data-name": site.name },
      el("title", {}, `${site.name}: ${site.me ? "this site" : (site.words || "nothing is known")}${site.link && !site.me && site.link.round_trip_s !== null ? `, ${latency(site.link.round_trip_s)} there and back` : ""}`), shape, label || null);
  });
  return el("svg", { viewBox: `-75 0 ${SIZE + 150} ${SIZE}`, role: "img", "aria-label": words(state), class: sites.length > 16 ? "crowded" : null }, met, own, nodes);
}

function short(name) {
  return name.length > 16 ? `${name.slice(0, 15)}…` : name;
}

function line(a, b, kind, rate = 0, crowd = 1) {
  return el("line", { x1: a[0], y1: a[1], x2: b[0], y2: b[1], class: kind,
    "stroke-width": ((1.2 + Math.min(Math.log10(1 + rate / 1024), 5)) * crowd).toFixed(1) });
}

function words(state) {
  const others = state.sites.filter((site) => site.member && !site.me);
  if (!state.node) return `${others.length + 1} sites. The node does not run, so nothing is known of its links.`;
  const up = others.filter((site) => tone(site, state) === "up").length;
  const not = others.filter((site) => tone(site, state) !== "up").map((site) => site.name);
  const rest = not.length ? `; not linked: ${not.slice(0, 8).join(", ")}${not.length > 8 ? " and others" : ""}` : "";
  return `Links of ${state.site}: ${up} of ${others.length} are up${rest}. Thicker lines bring more bytes.`;
}

/** How long a word and its answer take, as the node measures it, and how much that varies. */
function trip(link) {
  return link.round_trip_s === null ? "–" : `${latency(link.round_trip_s)} ± ${latency(link.round_trip_variation_s)}`;
}

function links(state) {
  const heads = [["Site", ""], ["As seen from here", "words"], ["Round", "n"], ["Brings", "n"], ["Received", "n"], ["Sent", "n"],
    ["Last progress", "n"], ["There and back", "n"], ["Clock", "n"], ["Version", ""], ["Key", ""]];
  const rows = state.sites.filter((site) => site.member).map((site) => {
    const link = site.link, mark = el("span", { class: `mark ${tone(site, state)}` }, site.mark || "·");
    return [
      [site.name, site.me ? " (this site)" : ""], [mark, " ", site.words || "not known while the node does not run"],
      link ? link.round : "–", link && !site.me ? `${bytes(link.rate_bytes_s)}/s` : "", link && !site.me ? bytes(link.received_bytes) : "",
      link && !site.me ? bytes(link.sent_bytes) : "", link && !site.me ? `${seconds(link.moved_s)} ago` : "",
      link && !site.me ? trip(link) : "",
      link && !site.me && link.linked ? `${link.clock_offset_ms > 0 ? "+" : ""}${seconds(link.clock_offset_ms / 1000)}` : "",
      link ? link.software : "", el("code", {}, site.node.slice(0, 12)),
    ];
  });
  return table("Every site, as this one sees it", heads, rows);
}
