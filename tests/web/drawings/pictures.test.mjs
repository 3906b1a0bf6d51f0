import assert from "node:assert/strict";
import { test } from "node:test";

import { isIncomplete, isOlder } from "../../../web/js/lib/drawings/pictures.js";

const saved = (...names) => names.map((filename) => ({ filename, subfolder: "", type: "temp" }));
const loaded = (...names) =>
  names.map((name) => ({ src: `http://x/api/view?filename=${name}&type=temp&subfolder=&rand=0.5` }));

test("a list of an earlier output is older, whichever of the two loads last", () => {
  const output = saved("a", "b");
  assert.ok(isOlder(loaded("a"), loaded("a", "b"), output));
  assert.ok(!isOlder(loaded("a", "b"), loaded("a"), output));
  assert.ok(isOlder(loaded("x", "y", "z"), loaded("a", "b"), output));
  assert.ok(!isOlder(loaded("a", "b"), loaded("a", "b"), output));
});

test("while nothing of the output is shown, any list may be", () => {
  assert.ok(!isOlder(loaded("x"), [], saved("a")));
  assert.ok(!isOlder(loaded("x"), loaded("y"), saved("a")));
  assert.ok(!isOlder(loaded("x"), loaded("a"), []));
});

test("a list that lacks pictures of the output is incomplete", () => {
  assert.ok(isIncomplete(loaded("a"), saved("a", "b")));
  assert.ok(isIncomplete(loaded("x"), saved("a")));
  assert.ok(!isIncomplete(loaded("b", "a"), saved("a", "b")));
  assert.ok(!isIncomplete(loaded("a"), []));
});

test("previews are let through", () => {
  for (const src of ["blob:http://x/1", "data:image/png;base64,AA"]) {
    assert.ok(!isOlder([{ src }], loaded("a", "b"), saved("a", "b")));
    assert.ok(!isIncomplete([{ src }], saved("a", "b")));
  }
});
