// @ts-check
/** Keeps the previews of the open graph in the page's language. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { hostsOf } from "../lib/graph/upstream.js";
import { isPreview, sayPreview } from "../lib/page/previews.js";

const EVERY = 150; // milliseconds: the page has no event for all that changes what one shows

/** Start to do so; called once. */
export function followPreviews() {
  setInterval(() => {
    if (document.hidden) return;
    const root = app.rootGraph ?? app.graph;
    for (const node of app.canvas?.graph?.nodes ?? [])
      if (isPreview(node)) sayPreview({ node, hosts: hostsOf(root, node.graph) ?? [] });
  }, EVERY);
}
