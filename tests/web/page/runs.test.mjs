import assert from "node:assert/strict";
import { registerHooks } from "node:module";
import { test } from "node:test";

const HOST = `export const api = Object.assign(new EventTarget(), {
  fetchApi: async () => ({ ok: true, json: async () => ({ workflow: "a" }) }),
});`;
const asModule = (source) => `data:text/javascript,${encodeURIComponent(source)}`;
registerHooks({
  resolve: (name, context, next) =>
    name.endsWith("/scripts/api.js")
      ? { url: asModule(HOST), shortCircuit: true }
      : next(name, context),
});

test("after a message that nothing can be made of, the next are still taken", async (t) => {
  const { api } = await import(asModule(HOST));
  const { followRuns, reports } = await import("../../../web/js/page/runs.js");
  const errors = t.mock.method(console, "error", () => {});
  const send = (name, detail) =>
    api.dispatchEvent(Object.assign(new Event(name), { detail }));
  followRuns();
  send("execution_start", { prompt_id: "p" });
  send("craft_lora.notice", null);
  send("execution_error", { prompt_id: "p", node_id: "3", node_type: "CRAFTRouter" });
  send("craft_lora.notice", { prompt_id: "p", node: "4", type: "CRAFTRouter", text: "said" });
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(errors.mock.callCount(), 1);
  assert.deepEqual(reports.of("a", "3", "CRAFTRouter"), { text: "", failed: true });
  assert.equal(reports.of("a", "4", "CRAFTRouter").text, "said");
});

test("an error of the pack's own in a node of the host is kept, another's is not", async () => {
  const { api } = await import(asModule(HOST));
  const { reports } = await import("../../../web/js/page/runs.js");
  const fails = (node_id, exception_type) => {
    const detail = { prompt_id: "p", node_id, node_type: "KSampler", exception_type,
      exception_message: "Wrong.\n" };
    api.dispatchEvent(Object.assign(new Event("execution_error"), { detail }));
  };
  fails("8", "/some/folder/craft-lora.craft_core.errors.CraftError");
  fails("9", "builtins.ValueError");
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(reports.of("a", "8", "KSampler"), { text: "Wrong.", failed: true });
  assert.equal(reports.of("a", "9", "KSampler"), null);
});

test("a node's prompt is known from what it says, also in a page that did not see it begin", async () => {
  const { api } = await import(asModule(HOST));
  const { promptOf } = await import("../../../web/js/page/runs.js");
  const send = async (name, detail) => {
    api.dispatchEvent(Object.assign(new Event(name), { detail }));
    await new Promise((resolve) => setTimeout(resolve, 5));
  };
  assert.equal(promptOf("a", "7"), "");
  await send("craft_lora.notice", { prompt_id: "q", node: "7", type: "CRAFTTrainLoRA", text: "" });
  assert.equal(promptOf("a", "7"), "q");
  assert.equal(promptOf("a", "8"), "");
  assert.equal(promptOf("b", "7"), ""); // a node of the same number in another workflow
  await send("executing", null);
  assert.equal(promptOf("a", "7"), "");
});

test("a page that was cut off goes on where it was, and learns that a run is over", async (t) => {
  const { api } = await import(asModule(HOST));
  const { askForGrid, promptOf, reports } = await import("../../../web/js/page/runs.js");
  const send = async (name, detail) => {
    api.dispatchEvent(Object.assign(new Event(name), { detail }));
    await new Promise((resolve) => setTimeout(resolve, 10));
  };
  const cell = (column) => ({ row: 0, column, picture: "data:", scores: "", preset: "{}" });
  const shows = (node, prompt_id, column) =>
    send("craft_lora.notice", {
      prompt_id, node, type: "CRAFTXYGrid", text: `cell ${column}`,
      grid: { rows: ["a"], columns: ["1", "2", "3"], cells: [cell(column)] },
    });
  const shown = (node) =>
    reports.of("w", node, "CRAFTXYGrid")?.grid?.cells.map(({ column }) => column).sort();
  let state = { workflow: "w", runs: true, failure: null };
  const kept = { text: "all", grid: { rows: ["a"], columns: ["1", "2", "3"], cells: [0, 1, 2].map(cell) } };
  const asked = [];
  t.mock.method(api, "fetchApi", async (/** @type {string} */ route) => {
    asked.push(route);
    return { ok: true, json: async () => (route.includes("shown_grid") ? { shown: kept } : state) };
  });
  const isAsked = () => asked.some((route) => route.includes("shown_grid"));
  await send("execution_start", { prompt_id: "r" });
  await send("executing", "7");
  await shows("7", "r", 0);
  await send("reconnected");
  await send("executing", "7"); // the server says again what runs
  await shows("7", "r", 2);
  assert.deepEqual(shown("7"), [0, 2]);
  assert.equal(promptOf("w", "7"), "r");
  askForGrid("w", "7", "CRAFTXYGrid"); // what came while it was cut off
  await send("status");
  assert.deepEqual(shown("7"), [0, 1, 2]);

  state = { workflow: "w", runs: false, failure: null };
  asked.length = 0;
  await send("reconnected");
  assert.equal(promptOf("w", "7"), "");
  assert.equal(reports.of("w", "7", "CRAFTXYGrid"), null); // as far as it said
  askForGrid("w", "7", "CRAFTXYGrid");
  await send("status");
  assert.ok(isAsked());
  assert.equal(reports.of("w", "7", "CRAFTXYGrid").text, "all");

  state = { workflow: "w", runs: true, failure: null };
  const found = { prompt_id: "s", node: "8", type: "CRAFTFindBest", text: "best", preset: "{}" };
  await send("execution_start", { prompt_id: "s" });
  await send("executing", "8");
  await send("craft_lora.notice", found);
  const failure = { prompt_id: "s", node_id: "8", node_type: "CRAFTFindBest",
    exception_message: "No memory", exception_type: "" };
  state = { workflow: "w", runs: false, failure };
  await send("reconnected");
  const { text, failed, preset, found: before } = reports.of("w", "8", "CRAFTFindBest");
  assert.deepEqual([text, failed, preset, before], ["No memory", true, "{}", "best"]);

  t.mock.method(api, "fetchApi", async () => { throw new Error("no server"); });
  await send("executing", "9");
  await send("craft_lora.notice", { prompt_id: "s", node: "9", type: "CRAFTRouter", text: "said" });
  await send("reconnected");
  assert.equal(promptOf("w", "9"), "s"); // nothing is known, so nothing is dropped
});

test("what the server refuses is said on its node, and what it answers goes on", async () => {
  const { api } = await import(asModule(HOST));
  const { followRefusals, reports } = await import("../../../web/js/page/runs.js");
  const wrong = {
    type: "custom_validation_failed",
    details: "prompt - Wrong",
    extra_info: { input_name: "prompt" },
  };
  const node_errors = { "4": { class_type: "CRAFTRouter", errors: [wrong] } };
  const answers = [
    () => ({ prompt_id: "q", node_errors }),
    () => ({ prompt_id: "q", node_errors: {} }),
    () => { throw Object.assign(new Error("refused"), { response: { node_errors } }); },
    () => { throw new Error("no server"); },
  ];
  const asked = [];
  api.queuePrompt = async function (...given) {
    assert.equal(this, api);
    asked.push(given);
    return answers.shift()();
  };
  followRefusals();
  const prompt = (id) => ({ output: {}, workflow: { id } });
  const said = (id) => reports.of(id, "4", "CRAFTRouter");
  assert.equal((await api.queuePrompt(0, prompt("some"), { previewMethod: "auto" })).prompt_id, "q");
  assert.deepEqual(asked, [[0, prompt("some"), { previewMethod: "auto" }]]);
  assert.deepEqual(said("some"), { text: "Wrong", failed: true });
  await api.queuePrompt(0, prompt("none"));
  assert.equal(said("none"), null);
  await assert.rejects(api.queuePrompt(0, prompt("all")), /refused/);
  assert.deepEqual(said("all"), { text: "Wrong", failed: true });
  await assert.rejects(api.queuePrompt(-1, prompt("gone")), /no server/);
});
