import assert from "node:assert/strict";
import { test } from "node:test";

import { answered, jsonOf } from "../../../web/js/lib/page/answers.js";

const page = (body, status = 200) => Promise.resolve(new Response(body, { status }));
const UNREAD = { name: "CraftError", message: /no answer that can be read/ };

test("an answer is given as it is, its JSON read", async () => {
  assert.deepEqual(await answered(Promise.resolve([1])), [1]);
  assert.deepEqual(await jsonOf(page('{"a": 1}')), { a: 1 });
});

test("without a server, and for a page in place of JSON, the reason is said", async () => {
  const gone = () => Promise.reject(new TypeError("Failed to fetch"));
  await assert.rejects(answered(gone()), UNREAD);
  await assert.rejects(jsonOf(gone()), UNREAD);
  await assert.rejects(jsonOf(page("<html>", 500)), UNREAD);
  await assert.rejects(jsonOf(page("{}", 404)), UNREAD);
  await assert.rejects(jsonOf(page("<html>")), UNREAD);
});
