import assert from "node:assert/strict";
import { test } from "node:test";

import { translateMenus } from "../../../web/js/lib/menus/tooltips.js";

const option = (key, inputs) => ({ key, inputs: { required: inputs } });
const definition = () => ({
  required: {
    method: ["COMFY_DYNAMICCOMBO_V3", {
      tooltip: "How.",
      options: [
        option("craft", {}),
        option("k_lora", { gamma: ["FLOAT", { tooltip: "Evens out.", default: 1 }] }),
      ],
    }],
    scheduler: ["COMBO", { options: ["karras"], tooltip: "How noise falls." }],
  },
  optional: { schedule: ["CRAFT_SCHEDULE"] },
});
const gamma = (inputs) => inputs.required.method[1].options[1].inputs.required.gamma;

test("an entry's input gets the locale's tooltip and keeps all else", () => {
  const inputs = definition();
  translateMenus(inputs, { method: { tooltip: "如何" }, method_gamma: { tooltip: "平衡" } });
  assert.deepEqual(gamma(inputs), ["FLOAT", { tooltip: "平衡", default: 1 }]);
  gamma(inputs)[1].tooltip = "Evens out.";
  assert.deepEqual(inputs, definition()); // nothing but that one tooltip
});

test("without a text the schema's tooltip stays", () => {
  const inputs = definition();
  translateMenus(inputs, {});
  assert.deepEqual(inputs, definition());
});
