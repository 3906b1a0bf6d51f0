import assert from "node:assert/strict";
import { test } from "node:test";

import { fittingModel } from "../../../web/js/lib/insertion/base_model.js";

const FAMILIES = { "old.safetensors": "SD1.x or SD2.x", "sub/xl_base.safetensors": "SDXL", "b": "SDXL" };
const CHOICES = Object.keys(FAMILIES).map((name) => ({ kind: "checkpoints", name }));
const familyOf = async ({ name }) => FAMILIES[name];
const fits = async (...infos) => (await fittingModel(CHOICES, infos, familyOf))?.name ?? null;

test("the file that a LoRA names as its base comes first, whatever its folder and ending", async () => {
  assert.equal(await fits({ family: "SDXL", stated: ["XL_base.ckpt"] }), "sub/xl_base.safetensors");
  assert.equal(await fits({ family: "SDXL" }, { stated: ["C:\\models\\old.ckpt"] }), "old.safetensors");
});

test("else the first of its family, none where that is not known", async () => {
  assert.equal(await fits({ family: "SDXL", stated: ["absent"] }, null), "sub/xl_base.safetensors");
  assert.equal(await fits({ family: "", stated: [] }), null);
  assert.equal(await fits({ family: "Flux" }), null);
});

test("of very many files not all are read", async () => {
  const many = Array.from({ length: 500 }, (_, at) => ({ kind: "checkpoints", name: `${at}` }));
  let asked = 0;
  const family = async () => ((asked += 1), "SDXL");
  assert.equal(await fittingModel(many, [{ family: "Flux" }], family), null);
  assert.ok(asked < 100);
});
