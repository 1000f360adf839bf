// The browser SDK against a gateway that misbehaves at will. `test_sdk.py` runs this.

import assert from "node:assert/strict";
import { test } from "node:test";

import { cut, event, hurry, json, page, serve, stream } from "./server.mjs";

const { CheckoutError, createCheckout, watchCheckout } = await import(
  process.env.SDK ?? new URL("../../gateway/sdk/v1.js", import.meta.url).href
);

const quote = { price: "49.99", currency: "usd", order_id: "ORD-1", timestamp: 1775811600, signature: "ab".repeat(32) };
const open = { id: "cs_1", status: "open", payment_url: "https://pay.example/" };
const paid = { ...open, status: "paid" };
const mine = { id: "cs_1", token: "cst_secret" };

async function statuses(watching) {
  const seen = [];
  for await (const { status } of watching) seen.push(status);
  return seen;
}

test("a payment starts with exactly the signed quote, and the key in a header", async (t) => {
  const { gateway, requests } = await serve(t, json(201, { ...open, client_token: "cst_1" }));
  const session = await createCheckout({ gateway: `${gateway}/`, key: "qpk_1", quote: { ...quote, cart: [1] } });
  assert.deepEqual(session, { ...open, client_token: "cst_1" });
  const [{ method, url, headers, body }] = requests;
  assert.equal(`${method} ${url}`, "POST /checkout-sessions");
  assert.equal(headers.authorization, "Bearer qpk_1");
  assert.equal(headers["content-type"], "application/json");
  assert.equal(headers.cookie, undefined);
  assert.deepEqual(JSON.parse(body), quote);
});

test("a refusal is an error with everything the gateway said", async (t) => {
  const problem = {
    type: "/problems/rate-limited", title: "Too many requests", status: 429, detail: "Wait a little.",
    code: "rate-limited", request_id: "r-1", retry_after: 7, errors: [{ pointer: "#/price", detail: "no" }],
  };
  const { gateway } = await serve(t, json(429, problem));
  await assert.rejects(createCheckout({ gateway, key: "qpk_1", quote }), (error) => {
    assert.ok(error instanceof CheckoutError && error instanceof Error);
    const { name, message, code, detail, status, requestId, retryAfter, errors } = error;
    assert.deepEqual(
      { name, message, code, detail, status, requestId, retryAfter, errors },
      {
        name: "CheckoutError", message: "Wait a little.", code: "rate-limited", detail: "Wait a little.", status: 429,
        requestId: "r-1", retryAfter: 7, errors: problem.errors,
      },
    );
    return true;
  });
});

test("no message ever holds the key or the quote", async (t) => {
  const { gateway } = await serve(t, page(502), cut, page(200));
  for (const code of ["unexpected-answer", "network-error", "unexpected-answer"]) {
    await assert.rejects(createCheckout({ gateway, key: "qpk_1", quote }), (error) => {
      assert.equal(error.code, code);
      for (const secret of ["qpk_1", quote.signature]) assert.ok(!JSON.stringify({ ...error, m: `${error}` }).includes(secret));
      return true;
    });
  }
});

test("what something in front of the gateway answers is told apart", async (t) => {
  const { gateway } = await serve(t, page(503, { "Retry-After": "9", "X-Request-Id": "r-2" }));
  await assert.rejects(createCheckout({ gateway, key: "qpk_1", quote }), {
    code: "unexpected-answer", status: 503, retryAfter: 9, requestId: "r-2", errors: [],
  });
});

test("a payment that is given up rejects with the reason", async (t) => {
  const { gateway } = await serve(t, stream([], { open: true }));
  const signal = AbortSignal.timeout(50);
  await assert.rejects(createCheckout({ gateway, key: "qpk_1", quote, signal }), { name: "TimeoutError" });
});

for (const end of ["\n", "\r\n", "\r"]) {
  for (const size of [1, 2, 3, 7, 1_000]) {
    test(`events are read with ${JSON.stringify(end)} as line end, cut every ${size} bytes`, async (t) => {
      hurry(t);
      const lines = [
        "\uFEFF: a comment", "retry: 25", "retry: soon", "", "id: 1", "event: session", `data:${JSON.stringify(open)}`, "",
        ":", "event: other", "data: {}", "", "data: no name", "", "id: 2", "event", "event: session",
        'data: {"id": "cs_1",', 'data:  "status":', "unknown: field", 'data: "underpaid", "payment_url": "https://pây.example/€💸"}',
        "", "event: session", "", "id: 3", "event: session", `data: ${JSON.stringify(paid)}`, "", "",
      ]; // prettier-ignore
      const bytes = Buffer.from(lines.join(end));
      const chunks = [];
      for (let at = 0; at < bytes.length; at += size) chunks.push(bytes.subarray(at, at + size));
      const { gateway, requests } = await serve(t, stream(chunks));
      const seen = [];
      for await (const session of watchCheckout({ gateway, ...mine })) seen.push(session);
      assert.deepEqual(seen, [open, { ...open, status: "underpaid", payment_url: "https://pây.example/€💸" }, paid]);
      assert.equal(requests.length, 1);
    });
  }
}

test("the token travels in a header and in no address", async (t) => {
  const { gateway, requests } = await serve(t, stream([event(1, paid)]));
  const session = { ...open, id: "cs_/?#", client_token: "cst_secret" };
  assert.deepEqual(await statuses(watchCheckout({ gateway, session })), ["paid"]);
  const [{ method, url, headers }] = requests;
  assert.equal(`${method} ${url}`, "GET /checkout-sessions/cs_%2F%3F%23/events");
  assert.equal(headers.authorization, "Bearer cst_secret");
  assert.equal(headers.accept, "text/event-stream");
  assert.equal(headers["last-event-id"], undefined);
});

test("a lost connection goes on where it was, and tells nothing twice", async (t) => {
  const waits = hurry(t);
  const { gateway, requests } = await serve(
    t,
    stream([event(1, open), "id: 2\nevent: session\ndata: {\"half\":"]),
    cut,
    stream([event(1, open), event(4, { ...open, status: "underpaid" })]),
    stream([event(5, paid)]),
  );
  assert.deepEqual(await statuses(watchCheckout({ gateway, ...mine })), ["open", "underpaid", "paid"]);
  assert.deepEqual(requests.map(({ headers }) => headers["last-event-id"]), [undefined, "1", "1", "4"]);
  const [first, second, third] = waits;
  assert.ok(first >= 1_000 && first < 2_000, `${first}`);
  assert.ok(second >= 2_000 && second < 4_000, `${second}`);
  assert.ok(third >= 1_000 && third < 2_000, `after events the wait is short again: ${third}`);
});

test("waits grow to half a minute and differ from page to page", async (t) => {
  const waits = hurry(t);
  const { gateway, requests } = await serve(t, ...Array(9).fill(cut), stream([event(1, paid)]));
  await statuses(watchCheckout({ gateway, ...mine }));
  assert.equal(requests.length, 10);
  const grown = waits.map((milliseconds, index) => milliseconds / Math.min(1_000 * 2 ** index, 30_000));
  assert.ok(grown.every((factor) => factor >= 1 && factor < 2), `${grown}`);
  assert.ok(new Set(grown).size > 5, `${grown}`);
});

test("the gateway says how long to wait, by retry: and by Retry-After", async (t) => {
  const waits = hurry(t);
  const busy = { status: 429, code: "too-many-streams", detail: "Too many.", request_id: "r", retry_after: 20 };
  const { gateway } = await serve(
    t, stream(["retry: 40000\n\n", event(1, open)]), json(429, busy), page(503, { "Retry-After": "100" }),
    stream(["retry: 99999999999\n\n", event(2, paid)]),
  ); // prettier-ignore
  await statuses(watchCheckout({ gateway, ...mine }));
  const [drained, throttled, unavailable] = waits;
  assert.ok(drained >= 40_000 && drained < 80_000, `${drained}`);
  assert.ok(throttled >= 60_000, `${throttled}`);
  assert.ok(unavailable >= 140_000, `${unavailable}`);
});

test("a wait longer than a timer can hold is no wait of nothing", async (t) => {
  const waits = hurry(t);
  const { gateway } = await serve(t, page(503, { "Retry-After": "99999999999" }), stream([event(1, paid)]));
  await statuses(watchCheckout({ gateway, ...mine }));
  assert.deepEqual(waits, [2 ** 31 - 1]);
});

test("204 is the end: the final state was seen", async (t) => {
  hurry(t);
  const { gateway, requests } = await serve(t, stream([event(3, open)]), (response) => response.writeHead(204).end());
  assert.equal((await watchCheckout({ gateway, ...mine, onChange() {} })).status, "open");
  assert.equal(requests.length, 2);
});

test("a final status ends the watching and hangs up", async (t) => {
  for (const status of ["paid", "refunded"]) {
    const { gateway, requests } = await serve(t, stream([event(1, open), event(2, { ...open, status })], { open: true }));
    const seen = [];
    const last = await watchCheckout({ gateway, ...mine, onChange: (session) => seen.push(session.status) });
    assert.deepEqual([...seen, last.status], ["open", status, status]);
    await requests[0].closed;
    assert.equal(requests.length, 1);
  }
});

for (const [status, code] of [[401, "unauthenticated"], [403, "origin-not-allowed"], [404, "not-found"], [422, "validation-failed"]]) {
  test(`${status} is not asked again`, async (t) => {
    const { gateway, requests } = await serve(t, json(status, { status, code, detail: "No.", request_id: "r" }));
    await assert.rejects(statuses(watchCheckout({ gateway, ...mine })), { name: "CheckoutError", status, code });
    await assert.rejects(watchCheckout({ gateway, ...mine, onChange() {} }), { name: "CheckoutError", status, code });
    assert.equal(requests.length, 2);
  });
}

test("a page in place of the stream is an error and no endless loop", async (t) => {
  const { gateway } = await serve(t, page(200));
  await assert.rejects(statuses(watchCheckout({ gateway, ...mine })), { code: "unexpected-answer", status: 200 });
});

test("an event that is no JSON is a broken connection", async (t) => {
  hurry(t);
  const { gateway } = await serve(t, stream(["event: session\ndata: {\n\n"]), stream([event(1, paid)]));
  assert.deepEqual(await statuses(watchCheckout({ gateway, ...mine })), ["paid"]);
});

test("a connection without a sign of life is given up, before and after its headers", async (t) => {
  hurry(t, { silence: 100 });
  const { gateway, requests } = await serve(
    t, () => {}, stream([event(1, open)], { open: true }), stream([event(2, paid)]),
  ); // prettier-ignore
  assert.deepEqual(await statuses(watchCheckout({ gateway, ...mine })), ["open", "paid"]);
  await requests[1].closed;
});

test("an abort stops a stream, a wait and a start", async (t) => {
  const streaming = await serve(t, stream([event(1, open)], { open: true }));
  const whileStreaming = new AbortController();
  const watching = watchCheckout({ ...streaming, ...mine, signal: whileStreaming.signal, onChange: () => whileStreaming.abort() });
  await assert.rejects(watching, { name: "AbortError" });
  await streaming.requests[0].closed;

  const away = await serve(t, cut);
  const whileWaiting = new AbortController();
  const waiting = statuses(watchCheckout({ ...away, ...mine, signal: whileWaiting.signal }));
  setTimeout(() => whileWaiting.abort(new Error("the page is closed")), 100);
  await assert.rejects(waiting, { message: "the page is closed" });

  await assert.rejects(statuses(watchCheckout({ ...away, ...mine, signal: AbortSignal.abort() })), { name: "AbortError" });
  assert.equal(away.requests.length, 1);
});

test("leaving the loop hangs up", async (t) => {
  const { gateway, requests } = await serve(t, stream([event(1, open)], { open: true }));
  for await (const _ of watchCheckout({ gateway, ...mine })) break;
  await requests[0].closed;
  assert.equal(requests.length, 1);
});

test("an error of the page is the page's, and hangs up", async (t) => {
  const { gateway, requests } = await serve(t, stream([event(1, open)], { open: true }));
  const onChange = async () => {
    throw new RangeError("a bug of the page");
  };
  await assert.rejects(watchCheckout({ gateway, ...mine, onChange }), { name: "RangeError" });
  await requests[0].closed;
  assert.equal(requests.length, 1);
});

test("without id or token there is nothing to watch", async () => {
  await assert.rejects(watchCheckout({ session: open, onChange() {} }), TypeError);
  await assert.rejects(statuses(watchCheckout({ id: "cs_1" })), TypeError);
});
