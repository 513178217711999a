// One operation as it happens: found, planned, edited, checked; then what came of it.

import { get } from "/page/api.js";
import { announce, el, save } from "/page/elements.js";
import { whyLink } from "/page/why.js";

const STEPS = ["found", "planned", "edited", "checked"];
const FORGOTTEN = { recall: "as asked", paraphrase: "reworded", prefix: "first words given" };
const KEPT = { neighbours: "same subject", retain: "everything else" };
const ENDS = {
  healed: ["done", "healed"],
  rolled_back: ["rolled back", "trouble"],
  needs_confirmation: ["your call", "trouble"],
  unknown_fact: ["not known", ""],
};

export class OperationCard {
  /** @param act what the buttons do: act.undo(id), act.redo(id), act.confirm(). */
  constructor(act) {
    this.act = act;
    this.title = el("h3", {}, "Changing what it knows");
    this.chip = el("span", { class: "chip" }, "working");
    this.steps = Object.fromEntries(STEPS.map((name) => [name, step(name)]));
    const list = el("ol", { class: "steps", "aria-label": "Stages" }, ...Object.values(this.steps));
    this.rest = el("div", { class: "measures" });
    this.rest.hidden = true;
    this.layers = el("div", { class: "layers" });
    this.layers.hidden = true;
    this.says = el("p", { class: "says" });
    this.foot = el("div", { class: "actions" });
    const head = el("div", { class: "card-head" }, this.title, this.chip);
    const parts = [head, list, this.rest, this.layers, this.says, this.foot];
    this.element = el("article", { class: "card", "aria-label": "Operation" }, ...parts);
    this.move("found", "now");
  }

  move(name, state, text) {
    const item = this.steps[name];
    item.className = `step ${state}`;
    if (state === "now") item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
    if (text) item.querySelector("small").textContent = text;
  }

  stage({ name, text, values }) {
    announce(`${name}: ${text}`);
    if (name === "found") this.title.textContent = text;
    if (name === "planned") this.showLayers(values.layers ?? []);
    if (name === "checked") this.showMeasures(values);
    const at = STEPS.indexOf(name);
    if (at < 0) return;
    this.move(name, "done", name === "found" ? "in its answers" : text);
    // A stronger try goes back from checked to edited.
    STEPS.slice(at + 1).forEach((later, i) => this.move(later, i === 0 ? "now" : ""));
  }

  showLayers(touched) {
    this.layers.hidden = false;
    const count = Math.max(...touched, 0) + 1;
    const marks = Array.from({ length: count }, (_, i) =>
      el("i", { class: touched.includes(i) ? "touched" : "" }));
    const label = `${touched.length} layers changed: ${touched.join(", ")}`;
    const stack = el("span", { class: "stack", role: "img", "aria-label": label }, ...marks);
    this.layers.replaceChildren("Layers touched", stack);
  }

  showMeasures(values) {
    const groups = [
      [`Still given away`, FORGOTTEN, ""],
      [`Still known`, KEPT, "keeps"],
    ].map(([title, names, kind]) => {
      const bars = Object.entries(names).filter(([name]) => values[name]);
      return el("section", { class: kind }, el("h4", {}, title),
        ...bars.map(([name, label]) => bar(label, ...values[name])));
    });
    this.rest.hidden = false;
    this.rest.replaceChildren(...groups);
  }

  finish(text, data) {
    const outcome = data.outcome;
    const [label, kind] = ENDS[outcome?.status] ?? ["done", ""];
    const none = !outcome?.edit && outcome?.status !== "healed";
    this.chip.textContent = label;
    this.chip.className = `chip ${kind}`;
    for (const name of STEPS) {
      if (this.steps[name].classList.contains("now")) this.move(name, "");
    }
    if (!outcome || outcome.status === "unknown_fact") this.element.querySelector(".steps").remove();
    if (!outcome) this.title.textContent = "Remembering";
    else if (outcome.status === "unknown_fact") this.title.textContent = "Nothing to forget";
    this.says.textContent = text;
    announce(text);
    if (outcome?.edit) this.offer(outcome.edit, outcome);
    if (none && outcome?.status === "needs_confirmation") {
      this.foot.append(el("button", { class: "primary", type: "button",
        onclick: (event) => { event.target.disabled = true; this.act.confirm(); } }, "Do it anyway"));
    }
  }

  offer(id, outcome) {
    this.element.dataset.edit = id;
    const spent = outcome.seconds?.solve;
    if (spent) {
      this.layers.append(el("span", {}, `rank ${outcome.rank} · solved in ${spent.toFixed(2)} s`));
    }
    this.toggle = el("button", { type: "button", onclick: () => this.act.toggle(id) }, "Undo");
    const receipt = el("button", { type: "button", class: "quiet", onclick: async () =>
      save(`receipt-${id}.json`, await get(`/v1/edits/${id}/receipt`)) }, "Receipt");
    const why = el("details", { class: "why" }, el("summary", {}, "Why?"), el("ul"),
      el("p", {}, whyLink(id)));
    why.addEventListener("toggle", async () => {
      if (!why.open || why.querySelector("li")) return;
      const { explanation } = await get(`/v1/edits/${id}`);
      why.querySelector("ul").append(...explanation.map((line) => el("li", {}, line)));
    });
    this.foot.append(this.toggle, receipt);
    this.element.append(why);
  }

  /** Show an edit's state as the ledger has it now. */
  follow(state) {
    if (!this.toggle) return;
    this.toggle.textContent = state === "active" ? "Undo" : "Redo";
    this.chip.textContent = state === "active" ? "done" : "undone";
    this.chip.className = `chip ${state === "active" ? "healed" : ""}`;
  }
}

function step(name) {
  return el("li", { class: "step" }, el("span", { class: "dot", "aria-hidden": "true" }),
    el("b", {}, name), el("small"));
}

const percent = (share) => `${Math.round(share * 100)}%`;

function bar(label, before, after) {
  const first = el("i", { class: "before" });
  const then = el("i", { class: "after" });
  first.style.width = percent(before);
  then.style.width = percent(before);
  requestAnimationFrame(() => requestAnimationFrame(() => { then.style.width = percent(after); }));
  const told = el("output", {}, `${percent(before)} → `, el("b", {}, percent(after)));
  const track = el("span", { class: "track", "aria-hidden": "true" }, first, then);
  return el("div", { class: "bar" }, el("span", {}, label), track, told);
}
