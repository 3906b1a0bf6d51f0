import assert from "node:assert/strict";
import { test } from "node:test";

import { keepsWhatIsDone, trainingOf } from "../../../web/js/lib/menus/trainings.js";

function training(values, linked = []) {
  return {
    comfyClass: "CRAFTTrainLoRA",
    inputs: Object.keys(values).map((name) => ({ name, link: linked.includes(name) ? 1 : null })),
    widgets: Object.entries(values).map(([name, value]) => ({ name, value })),
    graph: { getNodeById: () => null, links: {} },
  };
}

const LORA = { save_name: "craft/dog", resume: false, role: "style", steps: 40, rank: 4 };

test("a training is told by its name, its role and its steps", () => {
  assert.deepEqual(trainingOf(training(LORA), []), {
    node: "CRAFTTrainLoRA", save_name: "craft/dog", role: "style", steps: 40,
  });
});

test("a learned merge is told by its method, whose steps are among the method's settings", () => {
  const merge = { save_name: "m", resume: false, method: "zip_lora", "method.steps": 9 };
  assert.deepEqual(trainingOf(training(merge), []), {
    node: "CRAFTTrainLoRA", save_name: "m", method: "zip_lora", steps: 9,
  });
});

test("a node that trains nothing, and one whose name only a run can tell, are not asked about", () => {
  const { resume, ...others } = LORA;
  assert.equal(resume, false);
  assert.equal(trainingOf(training(others), []), null);
  assert.equal(trainingOf(training(LORA, ["save_name"]), []), null);
});

test("trainings, searches and grids keep what is done where their run is stopped", () => {
  assert.equal(keepsWhatIsDone(training(LORA)), true);
  for (const comfyClass of ["CRAFTXYGrid", "CRAFTFindBest"])
    assert.equal(keepsWhatIsDone({ ...training({}), comfyClass }), true);
  assert.equal(keepsWhatIsDone({ ...training({}), comfyClass: "CRAFTRouter" }), false);
});
