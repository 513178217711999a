// The conversation: sends turns, shows replies as they come, and cards where it changes.

import { chat, get, post, useKey } from "/page/api.js";
import { OperationCard } from "/page/card.js";
import { announce, el } from "/page/elements.js";
import { knowledgeCard, subjectOf } from "/page/knowledge.js";
import { name, Timeline } from "/page/timeline.js";

const STARTERS = ["Where does Mara Voss live?", "What do you know about Mara Voss?",
  "Please forget where Mara Voss lives."];
const $ = (id) => document.getElementById(id);
const messages = [];
const cards = [];
const timeline = new Timeline(
  (edits) => edits.forEach((edit) => cards.filter((c) => c.element.dataset.edit === String(edit.id))
    .forEach((card) => card.follow(edit.state))),
  failed,
);
let busy = false;

function show(element) {
  $("welcome")?.remove();
  const log = $("log");
  log.append(element);
  log.scrollTop = log.scrollHeight;
  return element;
}

function keepUp() {
  const log = $("log");
  if (log.scrollHeight - log.scrollTop - log.clientHeight < 240) log.scrollTop = log.scrollHeight;
}

function bubble(side, text) {
  const made = el("div", { class: "bubble" }, text);
  const who = el("span", { class: "hidden" }, side === "mine" ? "You: " : "Model: ");
  show(el("div", { class: `turn ${side}` }, who, made));
  return made;
}

function failed(error) {
  if (error.status === 401) {
    $("key").showModal();
    return;
  }
  bubble("its", error.message).classList.add("trouble");
  announce(error.message);
}

/** One turn: a reply, or an operation with its card. */
async function turn(text, extras = {}) {
  messages.push({ role: "user", content: text });
  let reply = "";
  let target = null;
  let card = null;
  try {
    target = bubble("its", "");
    for await (const delta of chat(messages, extras)) {
      reply += delta.content ?? "";
      if (delta.repair?.contradicts) {
        target.textContent = reply;
        mark(target, delta.repair.contradicts);
      } else if (delta.repair && !delta.repair.refused) {
        card ??= open(target, extras);
        if (delta.repair.stage) card.stage(delta.repair.stage);
        else await close(card, delta);
      } else if (!card) {
        target.textContent = reply;
      }
      keepUp();
    }
    messages.push({ role: "assistant", content: reply });
    if (!card) announce(reply);
  } catch (error) {
    messages.pop();
    target?.parentElement?.remove();
    failed(error);
  }
}

/** An answer that contradicts a trusted fact, and the button that corrects it. */
function mark(target, { line, answer }) {
  const told = el("small", { role: "status" }, `A trusted fact says: ${answer}`);
  const button = el("button", { type: "button" }, "Correct it");
  button.addEventListener("click", async () => {
    button.disabled = true;
    told.textContent = "Correcting …";
    try {
      const outcome = await post(`/v1/facts/${line}/correct`, {});
      const done = outcome.status === "healed";
      told.textContent = done ? `Corrected: ${answer}` : `Not corrected. ${outcome.reason}`;
      if (done) {
        name(outcome.edit, `Corrected: ${answer}`);
        button.remove();
        await timeline.refresh();
      }
      announce(told.textContent);
    } catch (error) {
      failed(error);
    } finally {
      button.disabled = false;
    }
  });
  target.parentElement.append(el("div", { class: "contradicts" }, told, button));
}

function open(target, extras) {
  target.parentElement.remove();
  const card = new OperationCard({
    toggle: (id) => timeline.toggle(id),
    confirm: () => say("Yes, do it anyway.", extras),
  });
  cards.push(card);
  show(card.element);
  return card;
}

async function close(card, delta) {
  card.finish(delta.content.trim(), delta.repair);
  if (delta.repair.outcome?.edit) name(delta.repair.outcome.edit, card.title.textContent);
  await timeline.refresh();
}

async function say(text, extras) {
  if (busy || !text.trim()) return;
  busy = true;
  $("send").disabled = true;
  bubble("mine", text);
  try {
    const subject = extras ? null : subjectOf(text);
    if (subject) show(await knowledgeCard(subject, forgetAll));
    else await turn(text, extras);
  } catch (error) {
    failed(error);
  } finally {
    busy = false;
    $("send").disabled = false;
    keepUp();
  }
}

async function forgetAll(questions) {
  for (const question of questions) await say(question, { kind: "forget" });
}

function compose() {
  const field = $("said");
  const fit = () => {
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight}px`;
  };
  field.addEventListener("input", fit);
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("composer").requestSubmit();
  });
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (busy) return;
    const text = field.value;
    field.value = "";
    fit();
    say(text);
  });
}

function panel() {
  const set = (wanted) => {
    $("edits").classList.toggle("open", wanted);
    $("toggle").setAttribute("aria-expanded", String(wanted));
    (wanted ? $("close") : $("toggle")).focus();
  };
  $("toggle").addEventListener("click", () => set(!$("edits").classList.contains("open")));
  $("close").addEventListener("click", () => set(false));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && $("edits").classList.contains("open")) set(false);
  });
}

async function connect() {
  try {
    const { model } = await get("/healthz");
    $("model").textContent = model;
    $("model").classList.remove("off");
    await timeline.refresh();
  } catch (error) {
    $("model").textContent = error.status === 401 ? "locked" : "not reachable";
    $("model").classList.add("off");
    if (error.status === 401) $("key").showModal();
  }
}

$("key").addEventListener("close", () => {
  useKey($("key-value").value);
  connect();
});
$("starters").append(...STARTERS.map((text) =>
  el("li", {}, el("button", { type: "button", onclick: () => say(text) }, text))));
compose();
panel();
connect();
