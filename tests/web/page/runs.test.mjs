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
