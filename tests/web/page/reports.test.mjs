import assert from "node:assert/strict";
import { test } from "node:test";

import { idInPrompt } from "../../../web/js/lib/graph/links.js";
import { Reports } from "../../../web/js/lib/page/reports.js";

const ROUTER = "CRAFTRouter";
const GRID = "CRAFTXYGrid";
const failed = (text) => ({ text, failed: true });
const said = (text) => ({ text, failed: false });

function begun(...workflows) {
  const reports = new Reports();
  workflows.forEach((workflow, index) => reports.begin(`p${index}`, workflow));
  return reports;
}

test("a node says what its last run said, until it runs again", () => {
  const reports = begun("a");
  reports.put("p0", "4", ROUTER, said("first"));
  reports.begin("p1", "a");
  assert.deepEqual(reports.of("a", "4", ROUTER), said("first"));
  reports.forget("p1", "4");
  assert.equal(reports.of("a", "4", ROUTER), null);
});

test("a report shows on no node of another workflow, id or type", () => {
  const reports = begun("a", "b");
  reports.put("p0", "4", ROUTER, said("mine"));
  assert.equal(reports.of("b", "4", ROUTER), null);
  assert.equal(reports.of("a", "5", ROUTER), null);
  assert.equal(reports.of("a", "4", "CRAFTMethodSweep"), null);
});

test("a failure takes the place of a report and ends with the next run of its workflow", () => {
  const reports = begun("a", "b");
  reports.put("p0", "4", ROUTER, said("went well"));
  reports.put("p0", 4, ROUTER, failed("went wrong"));
  assert.deepEqual(reports.of("a", "4", ROUTER), failed("went wrong"));
  reports.begin("p2", "b");
  assert.deepEqual(reports.of("a", "4", ROUTER), failed("went wrong"));
  reports.begin("p3", "a");
  assert.equal(reports.of("a", "4", ROUTER), null);
});

test("what a run has found stays beside why it failed, until the next run of its workflow", () => {
  const reports = begun("a");
  const found = { ...said("Stopped after 3"), preset: "{}" };
  reports.put("p0", "4", "CRAFTFindBest", found);
  const expected = { ...failed("no memory"), preset: "{}", found: "Stopped after 3" };
  for (let times = 0; times < 2; times++) {
    reports.put("p0", "4", "CRAFTFindBest", failed("no memory"));
    assert.deepEqual(reports.of("a", "4", "CRAFTFindBest"), expected);
  }
  reports.begin("p1", "a");
  assert.equal(reports.of("a", "4", "CRAFTFindBest"), null);
});

test("a grid gets cell after cell until its node runs again, and a failure keeps them", () => {
  const reports = begun("a");
  const grid = (...cells) => ({ rows: ["r"], columns: ["a", "b"], cells });
  const [first, second] = [{ row: 0, column: 0 }, { row: 0, column: 1 }];
  reports.put("p0", "4", GRID, { ...said("cell 1 of 2"), grid: grid(first) });
  reports.put("p0", "4", GRID, { ...said("cell 2 of 2"), grid: grid(second) });
  assert.deepEqual(reports.of("a", "4", GRID), { ...said("cell 2 of 2"), grid: grid(first, second) });
  reports.put("p0", "4", GRID, failed("no memory"));
  assert.deepEqual(reports.of("a", "4", GRID), { ...failed("no memory"), grid: grid(first, second) });
  reports.forget("p0", "4");
  reports.put("p0", "4", GRID, { ...said("cell 1 of 2"), grid: grid() });
  assert.deepEqual(reports.of("a", "4", GRID).grid.cells, []);
});

test("a grid of before the page was loaded is there, under what has come in since", () => {
  const reports = begun("a");
  const grid = (...cells) => ({ rows: ["r"], columns: ["a", "b"], cells });
  const [first, second, newer] = [
    { row: 0, column: 0 }, { row: 0, column: 1 }, { row: 0, column: 1, scores: "better" },
  ];
  const before = { ...said("cell 1 of 2"), grid: grid(first, second) };
  reports.restore("b", "4", GRID, before);
  assert.deepEqual(reports.of("b", "4", GRID), before);
  reports.put("p0", "4", GRID, { ...said("2 of 2 cells"), grid: grid(newer) });
  reports.restore("a", "4", GRID, before);
  assert.deepEqual(reports.of("a", "4", GRID), { ...said("2 of 2 cells"), grid: grid(first, newer) });
});

test("a report keeps what the page can do with it", () => {
  const reports = begun("a");
  const stopped = { ...said("Stopped"), resume: "craft/dog" };
  reports.put("p0", "4", ROUTER, stopped);
  assert.deepEqual(reports.of("a", "4", ROUTER), stopped);
});

test("the workflows of the last prompts are known, not those of all", () => {
  const reports = begun(...Array(1000).fill("a"));
  assert.ok(reports.workflows.size < 500);
  assert.ok(reports.workflows.has("p999") && !reports.workflows.has("p0"));
});

test("a node in subgraphs has the ids around it in its own", () => {
  assert.equal(idInPrompt({ id: 3 }, [{ id: 5 }, { id: 9 }]), "5:9:3");
  assert.equal(idInPrompt({ id: 3 }, []), "3");
});

test("the failures of a workflow are those that no run since has ended", () => {
  const reports = new Reports();
  reports.begin("p", "a");
  reports.begin("q", "b");
  reports.put("p", "3", "KSampler", { text: "Wrong", failed: true });
  reports.put("p", "4", "CRAFTRouter", { text: "said", failed: false });
  reports.put("q", "5:3", "CRAFTRouter", { text: "Off", failed: true });
  assert.deepEqual(reports.failures("a"), [{ node: "3", type: "KSampler", text: "Wrong" }]);
  assert.deepEqual(reports.failures("b"), [{ node: "5:3", type: "CRAFTRouter", text: "Off" }]);
  reports.begin("r", "a");
  assert.deepEqual(reports.failures("a"), []);
});
