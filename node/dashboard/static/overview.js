// The strip at the top, and what there is to look at, in words.
import { byId, el, fact, marked, show } from "./dom.js";
import { bytes, counted, seconds } from "./words.js";

export function overview(state) {
  document.title = `${state.alerts.length ? `(${state.alerts.length}) ` : ""}${state.swarm}: ${state.site}`;
  show(byId("swarm"), state.swarm);
  show(byId("place"), `Seen from ${state.site}`);
  show(byId("strip"), el("dl", { class: "glance" }, facts(state)));
  show(byId("alerts-list"), alerts(state));
  show(byId("footer"), `Ledger ${state.ledger_id}. This page fetches nothing from elsewhere and changes nothing.`);
}

function facts(state) {
  const node = state.node;
  const linked = state.sites.filter((site) => site.member && site.link && site.link.linked).length;
  const doing = state.complete ? (state.outcome || "done") : !node ? "the node does not run"
    : node.paused || node.halted || node.refused ? "paused" : node.doing;
  return [
    fact("rounds committed", el("span", {}, `${state.committed} of ${state.planned}`,
      el("progress", { max: state.planned, value: state.committed, "aria-label": "rounds committed" }))),
    fact("this site", doing, node || state.complete ? "" : "bad"),
    node && node.eta_s !== null && !state.complete ? fact("until done, at this pace", seconds(node.eta_s)) : null,
    fact(`sites there, ${state.quorum} needed`, node ? `${linked} of ${state.sites.filter((s) => s.member).length}` : "–",
      node && linked < state.quorum ? "bad" : ""),
    fact("ledger", state.holds ? `holds, ${counted(state.entries, "entry")}` : "does not hold", state.holds ? "" : "bad"),
    state.epsilon === null ? null
      : fact("privacy spent", `ε ${state.epsilon.toFixed(2)}${state.budget === null ? "" : ` of ${state.budget}`}`),
    state.masks ? fact("updates travel", state.site_noise ? "masked, with noise on their sum" : "masked") : null,
    fact("free on its disk", bytes(state.disk_free)),
  ];
}

function alerts(state) {
  if (!state.alerts.length) return el("p", { class: "good" }, "Nothing: all that can be seen from here is as it should be.");
  return el("ul", { class: "alerts" }, state.alerts.map((one) => el("li", { class: one.level },
    el("strong", {}, one.level === "error" ? "Error: " : "Look: "), marked(one.text), el("span", { class: "hint" }, marked(one.hint)))));
}

