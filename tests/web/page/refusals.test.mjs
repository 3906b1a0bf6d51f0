import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { refusalsOf } from "../../../web/js/lib/page/refusals.js";
import { Reports } from "../../../web/js/lib/page/reports.js";
import { speak } from "../../../web/js/lib/texts.js";

const ROUTER = "CRAFTRouter";
const found = (input, text) => ({
  type: "custom_validation_failed",
  message: "Custom validation failed for node",
  details: `${input} - ${text}`,
  extra_info: { input_name: input },
});
const node = (type, ...errors) => ({ class_type: type, errors });

afterEach(() => speak("en", {}));

test("what a node has found is put in the language of the page where the host shows it", () => {
  speak("zh", {}, {}, {}, { "There is no layer {name}": "没有层 {name}" });
  const errors = {
    "4": node(ROUTER, found("prompt", "There is no layer 7 - 9"), found("method", "Unknown - it is")),
  };
  const refusals = refusalsOf(errors);
  const details = errors["4"].errors.map((error) => error.details);
  assert.deepEqual(details, ["prompt - 没有层 7 - 9", "method - Unknown - it is"]);
  const text = "There is no layer 7 - 9\nUnknown - it is";
  assert.deepEqual(refusals, [{ node: "4", type: ROUTER, text }]);
});

test("the host repeats what is found for each input; the node says it once", () => {
  const errors = { "1:4": node(ROUTER, found("prompt", "Wrong"), found("method", "Wrong")) };
  assert.deepEqual(refusalsOf(errors), [{ node: "1:4", type: ROUTER, text: "Wrong" }]);
});

test("other nodes, and what the host itself has found, stay as they are", () => {
  const own = { type: "value_not_in_list", details: "seed - Wrong", extra_info: { input_name: "seed" } };
  const errors = {
    "3": node("KSampler", found("seed", "Wrong")),
    "4": node(ROUTER, own, { type: "custom_validation_failed", details: "prompt" }),
    "5": {},
  };
  const before = structuredClone(errors);
  for (const nothing of [errors, null, undefined, {}])
    assert.deepEqual(refusalsOf(nothing), []);
  assert.deepEqual(errors, before);
});

test("a refusal stands on its node until the next run or refusal of its workflow", () => {
  const reports = new Reports();
  reports.begin("p", "a");
  reports.put("p", "4", ROUTER, { text: "went well", failed: false });
  reports.put("p", "5", ROUTER, { text: "went wrong", failed: true });
  const grid = { labels: [], cells: [] };
  reports.restore("a", "4", ROUTER, { text: "", failed: false, grid });
  const refusal = (name, text) => ({ node: name, type: ROUTER, text });
  reports.refuse("a", [refusal("4", "no")]);
  const { grid: kept, ...said } = reports.of("a", "4", ROUTER);
  assert.deepEqual(said, { text: "no", failed: true });
  assert.deepEqual(kept.cells, []);
  assert.equal(reports.of("a", "5", ROUTER), null);
  reports.refuse("b", [refusal("4", "no")]);
  assert.equal(reports.of("a", "4", ROUTER).text, "no");
  reports.begin("p1", "a");
  assert.equal(reports.of("a", "4", ROUTER), null);
});
