// @ts-check
/** Links in the colour of a warning, as long as what a node says is about them. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";

const COLOUR = "#dea014"; // of a link, which both ways to draw nodes take; it is not saved

export class MarkedLinks {
  constructor() {
    /** @type {Map<any, any>} the colours that the links had before */
    this.former = new Map();
  }

  /** Mark these links and no others. @param {any[]} links of the host's graph */
  set(links) {
    if (!links.length && !this.former.size) return;
    for (const [link, colour] of this.former) {
      if (links.includes(link)) continue;
      link.color = colour ?? "";
      this.former.delete(link);
    }
    for (const link of links) {
      if (this.former.has(link)) continue;
      this.former.set(link, link.color);
      link.color = COLOUR;
    }
    app.canvas?.setDirty(true, true);
  }
}
