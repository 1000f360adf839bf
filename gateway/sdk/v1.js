/**
 * QuantaPay Gateway in a browser, version 1. One module, no dependencies; v1.d.ts beside it says what everything is.
 *
 *   import { createCheckout, watchCheckout } from "https://pay.example/sdk/v1.js";
 *
 *   const session = await createCheckout({ key: "qpk_…", quote });   // the quote comes from your own server
 *   window.open(session.payment_url);
 *   for await (const { status } of watchCheckout({ session })) show(status);
 *
 * Nothing is kept anywhere but in the values you hold, and nothing is written to the console.
 */

/** The gateway that served this module. */
const HOME = new URL("..", import.meta.url).href;
const FINAL = new Set(["paid", "refunded"]);
/** Milliseconds: the first wait before connecting again, unless the gateway names one, and the longest. */
const RETRY = 1_000;
const LONGEST_RETRY = 30_000;
/** Milliseconds: what a timer can hold. */
const FOREVER = 2 ** 31 - 1;
/** Milliseconds without a byte after which a connection counts as dead. The gateway sends a comment every 15 s. */
const SILENCE = 45_000;

export class CheckoutError extends Error {
  constructor({ code, detail, status = 0, request_id, retry_after, errors = [] }, cause) {
    super(detail, { cause });
    this.name = "CheckoutError";
    this.code = code;
    this.detail = detail;
    this.status = status;
    this.requestId = request_id;
    this.retryAfter = retry_after;
    this.errors = errors;
  }
}

export async function createCheckout({ gateway, key, quote, signal }) {
  const { price, currency, order_id, timestamp, signature } = quote;
  const response = await ask(gateway, "checkout-sessions", {
    method: "POST",
    headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json" },
    body: JSON.stringify({ price, currency, order_id, timestamp, signature }),
    signal,
  });
  try {
    return await response.json();
  } catch (cause) {
    signal?.throwIfAborted();
    throw unexpected(response, cause);
  }
}

export function watchCheckout({ onChange, ...watched }) {
  const changes = follow(watched);
  return onChange ? tell(changes, onChange) : changes;
}

async function tell(changes, onChange) {
  let session;
  for await (session of changes) await onChange(session);
  return session;
}

/** Yields the session now and after each change, over as many connections as it takes, until its status is final. */
async function* follow({ gateway, session, id = session?.id, token = session?.client_token, signal }) {
  if (!id || !token) throw new TypeError("watchCheckout needs a session of createCheckout, or its id and token");
  const path = `checkout-sessions/${encodeURIComponent(id)}/events`;
  const headers = { Authorization: `Bearer ${token}`, Accept: "text/event-stream" };
  let retry = RETRY;

  for (let failures = 0; ; failures += 1) {
    signal?.throwIfAborted();
    const connection = new AbortController();
    const hangUp = () => connection.abort();
    signal?.addEventListener("abort", hangUp);
    let retryAfter = 0;
    try {
      const response = await unlessSilent(ask(gateway, path, { headers, signal: connection.signal }), hangUp);
      if (response.status === 204) return; // it is final, and was seen
      if (!response.headers.get("Content-Type")?.startsWith(headers.Accept)) throw unexpected(response);
      for await (const event of eventsOf(response.body.getReader(), hangUp)) {
        retry = event.retry ?? retry;
        if (event.type !== "session") continue;
        const changed = JSON.parse(event.data);
        failures = 0;
        if (event.id === headers["Last-Event-ID"]) continue; // the same again, after connecting again
        if (event.id) headers["Last-Event-ID"] = event.id;
        yield changed;
        if (FINAL.has(changed.status)) return;
      }
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof CheckoutError && !mayPass(error)) throw error;
      retryAfter = error.retryAfter ?? 0;
    } finally {
      signal?.removeEventListener("abort", hangUp);
      hangUp();
    }
    const backoff = Math.max(retry, Math.min(retry * 2 ** failures, LONGEST_RETRY));
    await pause(retryAfter * 1_000 + backoff * (1 + Math.random()), signal);
  }
}

/** Returns what `fetch` answers if it is a success, and throws a `CheckoutError` if not. */
async function ask(gateway = HOME, path, options) {
  let response;
  try {
    response = await fetch(`${String(gateway).replace(/\/+$/, "")}/${path}`, {
      ...options,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
    });
  } catch (cause) {
    if (options.signal?.aborted) throw cause;
    throw new CheckoutError({ code: "network-error", detail: "The gateway could not be reached." }, cause);
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => null);
  throw problem?.code ? new CheckoutError(problem) : unexpected(response);
}

/** What no gateway would answer comes from something in front of it. */
function unexpected({ status, headers }, cause) {
  const problem = {
    code: "unexpected-answer",
    detail: `The answer, HTTP ${status}, is not one of the gateway's.`,
    status,
    request_id: headers.get("X-Request-Id") ?? undefined,
    retry_after: Number(headers.get("Retry-After")) || undefined,
  };
  return new CheckoutError(problem, cause);
}

function mayPass({ status }) {
  return status === 0 || status === 429 || status >= 500;
}

/** Yields server-sent events (HTML standard §9.2.6) as `{ type, data, id }`, and `{ retry }` when the wait changes. */
async function* eventsOf(reader, hangUp) {
  const decoder = new TextDecoder();
  let [rest, afterReturn, type, id, data] = ["", false, "", "", []];
  for (;;) {
    const { done, value } = await unlessSilent(reader.read(), hangUp);
    if (done) return; // an event without its blank line is dropped
    let text = decoder.decode(value, { stream: true });
    if (!text) continue; // half a character
    if (afterReturn && text.startsWith("\n")) text = text.slice(1); // the other half of a line's end
    afterReturn = text.endsWith("\r");
    const lines = (rest + text).split(/\r\n|\n|\r/);
    rest = lines.pop();
    for (const line of lines) {
      const [, field, content] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (field === "data") data.push(content);
      else if (field === "event") type = content;
      else if (field === "id" && !content.includes("\0")) id = content;
      else if (field === "retry" && /^\d+$/.test(content)) yield { retry: Number(content) };
      else if (line === "") {
        if (data.length) yield { type, id, data: data.join("\n") };
        [type, data] = ["", []];
      }
    }
  }
}

/** Calls `hangUp` if a promise takes too long. */
async function unlessSilent(promise, hangUp) {
  const timer = setTimeout(hangUp, SILENCE);
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, Math.min(milliseconds, FOREVER));
    signal?.addEventListener("abort", stop, { once: true });
  });
}
