/**
 * QuantaPay Gateway in a browser, version 1.
 *
 * The shop's server signs a quote (docs/quotes.md), the page starts the payment with it and watches it turn paid:
 *
 * ```js
 * import { createCheckout, watchCheckout, CheckoutError } from "https://pay.example/sdk/v1.js";
 *
 * const quote = await (await fetch("/quote", { method: "POST" })).json(); // from your own server
 * const session = await createCheckout({ key: "qpk_…", quote });
 * payLink.href = session.payment_url;
 *
 * for await (const { status } of watchCheckout({ session })) {
 *   label.textContent = status; // "open", later "paid"
 * }
 * ```
 *
 * The module stores nothing, sets no cookie and writes nothing to the console.
 */

/**
 * Starts the payment that the shop's server priced, or returns the one that the order has already: a reload, a second
 * tab and a newer quote of the same price all lead to the same session.
 *
 * @throws {CheckoutError} what the gateway refuses, and `network-error` if it cannot be reached. Sending the same
 * quote again is always right.
 */
export function createCheckout(options: CreateOptions): Promise<NewCheckoutSession>;

/**
 * Watches a session until its status is final, through lost connections and restarts of the gateway. Each change is
 * seen once, the present state first.
 *
 * Without `onChange`, an async iterator; leaving the loop stops the watching. With `onChange`, a promise of the last
 * state; it rejects with what `onChange` throws.
 *
 * @throws {CheckoutError} what waiting cannot mend, such as `not-found` for a wrong token. A gateway that is away,
 * busy or throttling is asked again, ever less often.
 */
export function watchCheckout(options: WatchOptions & { onChange?: undefined }): AsyncGenerator<CheckoutSession, void>;
export function watchCheckout(
  options: WatchOptions & { onChange: (session: CheckoutSession) => unknown },
): Promise<CheckoutSession>;

export interface CreateOptions {
  /** The publishable key, `qpk_…`. It works only on pages of the origins that the gateway's configuration lists. */
  key: string;
  /** The quote, exactly as the shop's server signed it. Other members are not sent. */
  quote: Quote;
  /** Gives up when aborted: the promise rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Where the gateway is; the one that served this module if absent. */
  gateway?: string | URL;
}

export type WatchOptions = {
  /** Stops when aborted: the promise rejects, the loop throws, both with the signal's reason. */
  signal?: AbortSignal;
  /** Where the gateway is; the one that served this module if absent. */
  gateway?: string | URL;
} & (
  | {
      /** What `createCheckout` returned. */
      session: NewCheckoutSession;
    }
  | {
      /** The session's id, `cs_…`. */
      id: string;
      /** The session's `client_token`, `cst_…`. It travels in a header, never in an address. */
      token: string;
    }
);

/** What the shop's server signed. */
export interface Quote {
  /** Decimal text, such as `"49.99"`. */
  price: string;
  /** ISO 4217 code, such as `"usd"`. */
  currency: string;
  order_id: string;
  /** When it was signed, in Unix seconds. A quote is good for five minutes. */
  timestamp: number;
  /** HMAC-SHA256 in lower-case hex. */
  signature: string;
}

/**
 * Moves only forward, in this order. `paid` and `refunded` are final.
 *
 * - `open`: nothing paid yet, or a payment is under way (see `transaction`).
 * - `underpaid`: less came than was asked for.
 * - `needs_review`: another amount or currency came than was asked for; the shop decides.
 */
export type CheckoutStatus = "open" | "underpaid" | "needs_review" | "paid" | "refunded";

export interface CheckoutSession {
  /** `cs_…` */
  id: string;
  status: CheckoutStatus;
  /** QuantaPay's hosted page: send the customer there, by a link or a QR code. */
  payment_url: string;
  /** Decimal text, as in the quote. */
  price: string;
  /** In lower case. */
  currency: string;
  order_id: string;
  /** RFC 3339, in UTC. */
  created_at: string;
  /** The payment, once there is one. */
  transaction: CheckoutTransaction | null;
}

export interface NewCheckoutSession extends CheckoutSession {
  /** Opens this one session to whoever holds it: `cst_…`. */
  client_token: string;
}

export interface CheckoutTransaction {
  id: string;
  /** On the blockchain; null until it is seen there. */
  hash: string | null;
  status: "pending" | "completed" | "underpaid" | "refunded" | "unknown";
  /** Decimal text, in coins. */
  amount: string | null;
  /** Such as `"btc"`. */
  cryptocurrency: string | null;
}

/** Why something could not be done; `message` is the gateway's text for people. */
export class CheckoutError extends Error {
  readonly name: "CheckoutError";
  /**
   * For programs: a code of the gateway (`/problems/<code>` tells what to do), `network-error` if it could not be
   * reached, or `unexpected-answer` if something else answered in its place.
   */
  readonly code:
    | "invalid-quote"
    | "quote-expired"
    | "order-conflict"
    | "order-already-paid"
    | "origin-not-allowed"
    | "rate-limited"
    | "network-error"
    | "unexpected-answer"
    | (string & {});
  /** The gateway's text for people. */
  readonly detail: string;
  /** The HTTP status; 0 if there was no answer. */
  readonly status: number;
  /** Names the request in the gateway's log. */
  readonly requestId?: string;
  /** Seconds after which to try again. */
  readonly retryAfter?: number;
  /** Each value that was wrong, as RFC 6901 pointers into the quote. */
  readonly errors: readonly { pointer?: string; parameter?: string; detail: string }[];
}
