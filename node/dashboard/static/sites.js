// What each site contributed, as the ledger has it.
import { byId, el, show, table } from "./dom.js";
import { brief, without } from "./rounds.js";
import { bytes, decimal, percent, whole } from "./words.js";

export function contributions(state, rounds) {
  const closed = rounds.filter((round) => round.closed_ms);
  const shared = state.sites.some((site) => site.share !== null);
  const judged = state.sites.some((site) => site.score !== null), spent = closed.some((round) => Object.keys(round.epsilon).length);
  const heads = [["Site", ""], ["Rounds", "n"], ["Not in", ""], ["Samples, last round", "n"], ["Mean weight", ""], ["Bytes offered", "n"],
    ...(judged ? [["Score", "n"]] : []), ...(shared ? [["Share", "n"]] : []), ...(spent ? [["Privacy spent", "n"]] : [])];
  const rows = state.sites.map((site, place) => {
    const there = closed.filter((round) => place in round.weights), last = there[there.length - 1];
    const weight = there.length ? there.reduce((sum, round) => sum + round.weights[place], 0) / there.length : null;
    const offered = closed.reduce((sum, round) => sum + (round.bytes[place] || 0), 0);
    const away = without(closed, place);
    const epsilon = Math.max(0, ...closed.map((round) => round.epsilon[place] || 0));
    return [
      [site.name, site.member ? "" : " (has left)"], `${there.length} of ${closed.length}`, brief(away),
      last ? whole(last.samples[place]) : "–", bar(weight), bytes(offered),
      ...(judged ? [site.score === null ? "–" : `${decimal(site.score)} ± ${decimal(site.error)}`] : []),
      ...(shared ? [percent(site.share)] : []), ...(spent ? [epsilon ? `ε ${decimal(epsilon, 2)}` : "–"] : []),
    ];
  });
  show(byId("site-noise"), state.site_noise ? `Noise on sums: ${state.site_noise}.` : "");
  show(byId("contributions-table"), table(`Over ${closed.length} closed rounds`, heads, rows));
}

function bar(share) {
  if (share === null) return "–";
  return el("span", { class: "share" }, el("meter", { min: 0, max: 1, value: share.toFixed(4), "aria-label": "mean weight" }), percent(share));
}
