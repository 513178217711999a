// The API's routes, read from openapi.json.

import { get } from "/page/api.js";
import { el } from "/page/elements.js";

const { paths, info } = await get("/openapi.json");
const cards = Object.entries(paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, route]) => el("article", { class: "card" },
    el("div", { class: "card-head" }, el("h3", {}, el("code", {}, `${method.toUpperCase()} ${path}`)),
      el("span", { class: "chip" }, (route.tags ?? [""])[0])),
    el("p", { class: "says" }, route.description ?? ""))));
document.getElementById("routes").replaceChildren(el("p", { class: "soft" }, info.summary ?? ""), ...cards);
