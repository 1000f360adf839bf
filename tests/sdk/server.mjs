// A gateway of which a test decides every byte, and a clock in which the SDK's waits take no time.

import { createServer } from "node:http";

/**
 * Serves `answers` in turn, the last one again and again; each is a function of the response. Returns the base URL and
 * the requests seen. Ends with the test.
 */
export async function serve(t, ...answers) {
  const requests = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    const { method, url, headers } = request;
    requests.push({ method, url, headers, body, closed: new Promise((resolve) => response.on("close", resolve)) });
    answers[Math.min(requests.length, answers.length) - 1](response);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return { gateway: `http://127.0.0.1:${server.address().port}`, requests };
}

export function json(status, document, headers = {}) {
  const type = status < 400 ? "application/json" : "application/problem+json";
  return (response) => response.writeHead(status, { "Content-Type": type, ...headers }).end(JSON.stringify(document));
}

export function page(status, headers = {}) {
  return (response) => response.writeHead(status, { "Content-Type": "text/html", ...headers }).end("<h1>Hello</h1>");
}

/** Cuts the connection without an answer. */
export const cut = (response) => response.socket.destroy();

/** Streams `chunks` (texts or bytes), a turn of the event loop apart; then ends, or with `open` goes on in silence. */
export function stream(chunks, { open = false } = {}) {
  return async (response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream; charset=utf-8" });
    response.flushHeaders();
    for (const chunk of chunks) {
      response.write(chunk);
      await new Promise(setImmediate);
    }
    if (!open) response.end();
  };
}

/** An event as the gateway writes it. */
export function event(version, session) {
  return `id: ${version}\nevent: session\ndata: ${JSON.stringify(session)}\n\n`;
}

/** How long the SDK lets a connection be silent. */
export const SILENCE = 45_000;

/**
 * Makes the SDK's waits take no time, and returns the milliseconds that it asked for. Silence is as long as ever, or
 * as `silence` says.
 */
export function hurry(t, { silence = SILENCE } = {}) {
  const { setTimeout: real } = globalThis;
  const waits = [];
  globalThis.setTimeout = (action, milliseconds, ...rest) => {
    if (!/\/v1\.m?js/.test(new Error().stack)) return real(action, milliseconds, ...rest);
    if (milliseconds === SILENCE) return real(action, silence, ...rest);
    waits.push(milliseconds);
    return real(action, 0, ...rest);
  };
  t.after(() => {
    globalThis.setTimeout = real;
  });
  return waits;
}
