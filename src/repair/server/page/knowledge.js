// What the model says about a subject, each with a tick to forget.

import { post } from "/page/api.js";
import { announce, el } from "/page/elements.js";

const ASKS = /^\s*what (?:all )?do you (?:know|remember) about (.+?)\s*[?.!]*\s*$/i;

/** The subject of "what do you know about …?", or null. */
export function subjectOf(text) {
  return text.match(ASKS)?.[1] ?? null;
}

/** A card with everything it says; ``forget(questions)`` is called with what was ticked. */
export async function knowledgeCard(subject, forget) {
  const { facts } = await post("/v1/knowledge", { subject });
  const title = facts[0]?.subject ?? subject;
  const head = el("div", { class: "card-head" }, el("h3", {}, title),
    el("span", { class: "chip" }, facts.length === 1 ? "1 thing known" : `${facts.length} things known`));
  announce(`${facts.length} things known about ${title}`);
  if (!facts.length) {
    const none = el("p", { class: "soft" }, "It says nothing about this.");
    return el("article", { class: "card", "aria-label": title }, head, none);
  }
  const button = el("button", { type: "submit", class: "primary", disabled: true }, "Forget");
  const list = el("fieldset", { class: "facts" }, el("legend", {}, "Tick what it should forget."),
    ...facts.map((fact) => el("label", {}, el("input", { type: "checkbox", value: fact.question }),
      el("span", {}, fact.attribute.replaceAll("_", " ") || "fact"), el("b", {}, fact.answer))));
  const ticked = () => [...list.querySelectorAll("input:checked:not(:disabled)")];
  const form = el("form", {
    onchange: () => {
      button.disabled = ticked().length === 0;
      button.textContent = ticked().length > 1 ? `Forget ${ticked().length}` : "Forget";
    },
    onsubmit: (event) => {
      event.preventDefault();
      const chosen = ticked();
      for (const box of chosen) box.disabled = true;
      button.disabled = true;
      forget(chosen.map((box) => box.value));
    },
  }, list, el("div", { class: "actions" }, button));
  return el("article", { class: "card", "aria-label": `What it knows about ${title}` }, head, form);
}
