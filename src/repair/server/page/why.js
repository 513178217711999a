// The link to the surgeon's explanation of an edit, a page of its own.

import { hasKey, text } from "/page/api.js";
import { announce, el, saveAs } from "/page/elements.js";

export function whyLink(id) {
  return el("a", {
    href: `/v1/edits/${id}/why`, target: "_blank", rel: "noopener",
    "aria-label": `The surgeon's plan of edit ${id}`,
    onclick: async (event) => {
      if (!hasKey()) return;
      // A link cannot send a key, so whoever has one gets the page as a file.
      event.preventDefault();
      try {
        saveAs(`why-${id}.html`, await text(`/v1/edits/${id}/why`), "text/html");
      } catch (error) {
        announce(error.message);
      }
    },
  }, "The surgeon's plan");
}
