// The edits of the ledger, newest first: undo, redo, strength, receipt.

import { get, post } from "/page/api.js";
import { announce, el, save } from "/page/elements.js";
import { whyLink } from "/page/why.js";

/** What this page saw being forgotten; the ledger itself keeps no plain text. */
const names = new Map();

export function name(id, text) {
  names.set(id, text);
}

export class Timeline {
  /** @param changed is told all edits after each change. @param failed is told errors. */
  constructor(changed, failed) {
    this.list = document.getElementById("timeline");
    this.changed = changed;
    this.failed = failed;
  }

  async refresh() {
    const { data } = await get("/v1/edits");
    this.edits = data;
    this.list.replaceChildren(...data.toReversed().map((edit) => this.item(edit)));
    document.getElementById("empty").hidden = data.length > 0;
    const active = data.filter((edit) => edit.state === "active").length;
    document.getElementById("count").textContent = active;
    this.changed(data);
  }

  async toggle(id) {
    const edit = this.edits.find((one) => one.id === id);
    const verb = edit.state === "active" ? "undo" : "redo";
    await this.carryOut(`/v1/edits/${id}/${verb}`, {}, `Edit ${id}: ${verb} done.`);
    this.list.querySelector(`[data-edit="${id}"] .switch`)?.focus({ preventScroll: true });
  }

  async carryOut(path, body, told) {
    try {
      await post(path, body);
      await this.refresh();
      announce(told);
    } catch (error) {
      this.failed(error);
    }
  }

  item(edit) {
    const at = new Date(edit.at);
    const active = edit.state === "active";
    const title = names.get(edit.id) ?? `Edit ${edit.id}`;
    const shown = el("output", {}, `${Math.round(edit.strength * 100)}%`);
    const slider = el("input", {
      type: "range", min: 0, max: 1, step: 0.05, value: edit.strength, id: `strength-${edit.id}`,
      disabled: !active,
      oninput: (event) => { shown.textContent = `${Math.round(event.target.value * 100)}%`; },
      onchange: (event) => this.carryOut(`/v1/edits/${edit.id}/strength`,
        { strength: Number(event.target.value) }, `Edit ${edit.id} is at ${shown.textContent}.`),
    });
    const whose = edit.owner ? " · only for you" : "";
    return el("li", { class: edit.state, "data-edit": edit.id },
      el("h3", {}, title, el("time", { datetime: edit.at },
        at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }))),
      el("p", { class: "meta" }, `${edit.kind === "correct" ? "corrected" : "forgotten"} · `
        + `${edit.layers.length} layers · rank ${edit.rank}${whose}`),
      el("div", { class: "slider" }, el("label", { for: slider.id }, "Strength"), slider, shown),
      el("div", { class: "actions" },
        el("button", { type: "button", class: "switch", "aria-label":
          `${active ? "Undo" : "Redo"} edit ${edit.id}`, onclick: () => this.toggle(edit.id) },
        active ? "Undo" : "Redo"),
        el("button", { type: "button", class: "quiet", "aria-label": `Receipt of edit ${edit.id}`,
          onclick: async () => save(`receipt-${edit.id}.json`,
            await get(`/v1/edits/${edit.id}/receipt`)) }, "Receipt"),
        whyLink(edit.id)));
  }
}
