import assert from "node:assert/strict";
import { test } from "node:test";

import { freePlace, overlap } from "../../../web/js/lib/graph/placing.js";

const GAP = 40;

/** Numbers from 0 to below n, the same in every run. */
function numbers(seed) {
  let state = seed;
  return (n) => Math.floor(((state = (state * 1103515245 + 12345) % 2147483648) / 2147483648) * n);
}

/** How far the nearest free one of all places beside the boxes is. */
function least([left, top, width, height], taken) {
  const lefts = [left, ...taken.flatMap(([x, , w]) => [x - GAP - width, x + w + GAP])];
  const tops = [top, ...taken.flatMap(([, y, , h]) => [y - GAP - height, y + h + GAP])];
  const free = lefts.flatMap((x) =>
    tops.filter((y) => !taken.some((box) => overlap([x, y, width, height], box)))
      .map((y) => Math.abs(x - left) + Math.abs(y - top)));
  return Math.min(...free);
}

test("a new node stands at the nearest of the free places", () => {
  const next = numbers(7);
  for (let graph = 0; graph < 400; graph += 1) {
    const box = () => [100 * next(8), 100 * next(8), 50 + 50 * next(6), 50 + 50 * next(6)];
    const taken = Array.from({ length: next(20) }, box);
    const wanted = box();
    const [x, y] = freePlace(wanted, taken);
    assert.ok(!taken.some((one) => overlap([x, y, wanted[2], wanted[3]], one)));
    assert.equal(Math.abs(x - wanted[0]) + Math.abs(y - wanted[1]), least(wanted, taken));
  }
});

test("among very many nodes, too", () => {
  const next = numbers(3); // all their places together would be tens of millions
  const taken = Array.from({ length: 3000 }, (_, at) =>
    [260 * (at % 50) + next(40), 200 * Math.floor(at / 50) + next(30), 240, 180]);
  const [x, y] = freePlace([6500, 6000, 300, 200], taken);
  assert.ok(!taken.some((box) => overlap([x, y, 300, 200], box)));
});
