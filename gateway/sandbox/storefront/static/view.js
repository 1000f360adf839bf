/** What the page shows. All texts are set as text, so nothing that was answered can become markup. */

const MOST_CALLS = 50;
/** Status to the sentence for it and the step it is on. */
const STATES = {
  open: ["Waiting for your payment.", 0],
  confirming: ["Payment seen. Waiting for its confirmation.", 1],
  underpaid: ["Less arrived than the price. Pay again in full, or write to us.", 0],
  needs_review: ["A payment arrived that does not match the price. We will look at it.", 1],
  paid: ["Paid. Thank you!", 2],
  refunded: ["The payment was refunded.", 2],
};

const find = (id) => document.getElementById(id);

export function onClick(id, action) {
  find(id).addEventListener("click", action);
}

export function showStarting() {
  find("pay").disabled = true;
  find("pay").textContent = "One moment…";
  find("failure").textContent = "";
}

export function showFailure(text) {
  find("pay").disabled = false;
  find("pay").textContent = "Try again";
  find("pay").hidden = false;
  find("failure").textContent = text;
}

/** Opens the payment's card; without a `payment_url` there is nothing left to pay. */
export function showPayment(session) {
  find("pay").hidden = true;
  find("payment").hidden = false;
  find("order-id").textContent = session.order_id;
  find("amount").textContent = `${session.price} ${session.currency.toUpperCase()}`;
  if (session.payment_url) {
    find("payment-link").href = session.payment_url;
    find("qr").src = `/qr.svg?${new URLSearchParams({ url: session.payment_url })}`;
  }
  showSession(session);
  find("payment-title").focus();
}

export function showSession({ status, transaction, payment_url: payable }) {
  const isFinal = status === "paid" || status === "refunded";
  const isConfirming = status === "open" && transaction?.status === "pending";
  const [sentence, step] = STATES[isConfirming ? "confirming" : status];
  find("status").dataset.status = status;
  if (find("status").textContent !== sentence) find("status").textContent = sentence; // said once by screen readers
  find("scan").hidden = isFinal || !payable;
  find("payment").classList.toggle("final", isFinal);
  [...find("steps").children].forEach((item, index) => {
    item.className = index < step || isFinal ? "done" : index === step ? "now" : "";
  });
  find("received").hidden = !transaction;
  if (transaction) {
    const amount = [transaction.amount, transaction.cryptocurrency?.toUpperCase()].filter(Boolean).join(" ");
    find("transaction").textContent = `${amount} (${transaction.status})`;
  }
}

export function showTampering() {
  find("tamper").disabled = true;
  find("tamper-result").replaceChildren();
  delete find("tamper-result").dataset.code;
}

export function showVerdict({ title, text, code = "" }) {
  const strong = document.createElement("strong");
  strong.textContent = title;
  const explanation = document.createElement("span");
  explanation.textContent = text;
  find("tamper-result").replaceChildren(strong, explanation);
  find("tamper-result").dataset.code = code;
  find("tamper").disabled = false;
}

/** Adds a row for a call, and returns the function that fills in its status. */
export function showCall({ to, method, path }) {
  find("no-calls").hidden = true;
  const rows = find("calls").tBodies[0];
  const row = rows.insertRow();
  const short = path.replace(/(cs_\w{6})\w+/, "$1…");
  for (const text of [to, method, short, "…"]) row.insertCell().textContent = text;
  if (rows.rows.length > MOST_CALLS) rows.deleteRow(0);
  return (status) => {
    row.cells[3].textContent = status;
    row.classList.toggle("refused", !/^[23]/.test(status));
  };
}
