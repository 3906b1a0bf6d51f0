// @ts-check
/**
 * Puts titles and sentences on the pack's cards in the template browser. The host gives a pack's
 * templates the names of their files alone; where it draws cards in another way, those stay.
 */

import { templates } from "../lib/page/templates.js";

const CARD = "template-workflow-";

/** From now on, write on our cards whenever the page shows them. */
export function nameTemplates() {
  const inside = new MutationObserver(writeOnCards);
  new MutationObserver((changes) => {
    for (const { addedNodes } of changes)
      for (const added of addedNodes)
        if (added instanceof HTMLElement) inside.observe(added, { childList: true, subtree: true });
    writeOnCards();
  }).observe(document.body, { childList: true }); // a dialog is a child of the body itself
}

function writeOnCards() {
  const cards = document.querySelectorAll(`[data-testid^="${CARD}"]`);
  if (!cards.length) return;
  const named = templates();
  for (const card of cards) {
    const name = card.getAttribute("data-testid")?.slice(CARD.length) ?? "";
    if (!Object.hasOwn(named, name)) continue;
    const [title, sentence] = named[name];
    const below = card.querySelector("p"); // newer front ends have none
    write(card.querySelector("h3"), title, below ? title : sentence);
    write(below, sentence, sentence);
  }
}

/** @param {Element | null} element @param {string} text @param {string} tooltip */
function write(element, text, tooltip) {
  if (!element || element.textContent === text) return; // else each writing would call for another
  element.textContent = text;
  element.setAttribute("title", tooltip);
}
