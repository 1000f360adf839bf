/** The shop's page: gets a quote from the shop's server, starts the payment, and shows how far it is. */

import { recordCalls } from "./calls.js";
import { CheckoutError, createCheckout, publishableKey, watchCheckout } from "./settings.js";
import * as view from "./view.js";

/** All that outlives a reload, in this tab: the order's id. A new quote for the same order finds the same session. */
const ORDER = "order-id";
const TAMPERED_PRICE = "0.01";

recordCalls(view.showCall);

async function pay() {
  view.showStarting();
  try {
    const quote = (await getQuote(sessionStorage.getItem(ORDER))) ?? (await getQuote());
    sessionStorage.setItem(ORDER, quote.order_id);
    await payQuote(quote);
  } catch (error) {
    view.showFailure(explain(error));
  }
}

/** Goes on with the order of before a reload, unless the shop does not know it any more. */
async function resume() {
  const orderId = sessionStorage.getItem(ORDER);
  if (!orderId) return;
  try {
    const quote = await getQuote(orderId);
    if (quote) await payQuote(quote);
    else sessionStorage.removeItem(ORDER);
  } catch (error) {
    view.showFailure(explain(error));
  }
}

async function payQuote(quote) {
  try {
    const session = await createCheckout({ key: publishableKey, quote });
    view.showPayment(session);
    await watchCheckout({ session, onChange: view.showSession });
  } catch (error) {
    if (error.code !== "order-already-paid") throw error;
    view.showPayment({ ...quote, status: "paid" });
  }
}

/** Asks the shop's server for a quote: for an order of its own, null if there is none, or without one for a new order. */
async function getQuote(orderId) {
  const response = await fetch("/quote", {
    method: "POST",
    body: orderId ? JSON.stringify({ order_id: orderId }) : null,
  });
  if (response.status === 404) return null;
  if (!response.ok) throw new Error(`The shop answered ${response.status}.`);
  return response.json();
}

async function tamper() {
  view.showTampering();
  try {
    const quote = await getQuote();
    await createCheckout({ key: publishableKey, quote: { ...quote, price: TAMPERED_PRICE } });
    view.showVerdict({ title: "Accepted", text: "This must never happen: please report it." });
  } catch (error) {
    const title = error instanceof CheckoutError ? `Refused: ${error.status} ${error.code}` : "Not sent";
    view.showVerdict({ title, text: explain(error), code: error.code });
  }
}

function explain(error) {
  return error instanceof CheckoutError ? error.detail : "The shop could not be reached. Try again.";
}

function startAnother() {
  sessionStorage.removeItem(ORDER);
  location.reload();
}

view.onClick("pay", pay);
view.onClick("tamper", tamper);
view.onClick("another", startAnother);
resume();
