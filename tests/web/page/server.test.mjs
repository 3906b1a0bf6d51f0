import assert from "node:assert/strict";
import { registerHooks } from "node:module";
import { test } from "node:test";

const HOST = "export const api = { fetchApi: (route) => globalThis.answerTo(route) };";
const url = `data:text/javascript,${encodeURIComponent(HOST)}`;
registerHooks({
  resolve: (name, context, next) =>
    name.endsWith("/scripts/api.js") ? { url, shortCircuit: true } : next(name, context),
});
const { AGAIN, forgetAnswers, loraInfo, modelFiles, TrainingQuestion } = await import("../../../web/js/page/server.js");

test("a folder's files are told from a server that gives none", async () => {
  const answers = {
    "/models/loras": async () => new Response('["a"]'),
    "/models/none": async () => new Response("[]"),
    "/models/wrong": async () => new Response("<html>", { status: 500 }),
    "/models/page": async () => new Response("<html>"),
    "/models/gone": async () => Promise.reject(new TypeError("Failed to fetch")),
  };
  globalThis.answerTo = (route) => answers[route]();
  const found = await Promise.all(["loras", "none", "wrong", "page", "gone"].map(modelFiles));
  assert.deepEqual(found, [["a"], [], null, null, null]);
});

test("the answers for a long list are kept, the oldest goes when there are too many", async () => {
  let asked = 0;
  globalThis.answerTo = async () => ({ json: async () => ({ number: (asked += 1) }) });
  const told = async (from, to) => {
    for (let at = from; at < to; at += 1) loraInfo(`${at}`);
    await new Promise((resolve) => setTimeout(resolve, 0));
  };
  await told(0, 1000);
  await told(0, 1000);
  assert.equal(asked, 1000);
  await told(1000, 4001);
  assert.equal(asked, 4001);
  assert.equal(loraInfo("1").number, 2);
  assert.equal(loraInfo("0"), null); // asked for anew
});

test("after a refresh of the page a file is asked about again, its old answer stays until then", async () => {
  let rank = 4;
  const settled = () => new Promise((resolve) => setTimeout(resolve, 0));
  globalThis.answerTo = async () => ({ json: async () => ({ rank }) });
  loraInfo("exchanged");
  await settled();
  rank = 8;
  assert.equal(loraInfo("exchanged").rank, 4);
  forgetAnswers();
  assert.equal(loraInfo("exchanged").rank, 4);
  await settled();
  assert.equal(loraInfo("exchanged").rank, 8);
});

test("what a training has left is asked anew now and then, and of another training at once", async (t) => {
  let now = 0;
  t.mock.method(performance, "now", () => now);
  const routes = [];
  let kept = { resume: "dog", step: 3, steps: 9 };
  globalThis.answerTo = async (route) => {
    routes.push(route);
    if (!kept) throw new TypeError("Failed to fetch");
    return { json: async () => ({ kept }) };
  };
  const question = new TrainingQuestion();
  const told = async (asked) => {
    question.ask(asked);
    now += 1000; // a name that is being typed is not asked about
    question.ask(asked);
    await new Promise((resolve) => setTimeout(resolve, 0));
    return question.ask(asked);
  };
  const [dog, cat] = [{ node: "CRAFTTrainLoRA", save_name: "dog" }, { save_name: "cat" }];
  assert.deepEqual(await told(dog), kept);
  assert.deepEqual(routes, ["/craft_lora/kept_training?node=CRAFTTrainLoRA&save_name=dog"]);
  await told(dog);
  assert.equal(routes.length, 1);
  const before = kept;
  [kept, now] = [null, now + AGAIN];
  assert.deepEqual(await told(dog), before); // the server is gone
  now += AGAIN;
  globalThis.answerTo = async () => ({ json: async () => ({ kept: null }) });
  assert.equal(await told(dog), null);
  assert.equal(question.ask(cat), null);
});
