
/**
 * Shows what `/status` says, and asks again every two seconds. What it says is set as text, never as markup.
 * Texts change only when the facts do: screen readers say each change once, and a selection stays.
 */
const EVERY = 2_000;
/** Milliseconds that an answer may take: a worker has one second to tell its supervisor how it is. */
const PATIENCE = 5_000;

/** From here on something is trouble. The alerts in deploy/prometheus/ have the same bounds. */
const MOST_SKEW = 60;
const OLDEST_EVENT = 900;
const LEAST_BUDGET = 0.3;

const opened = new Date();
let answered = null;

/** Each part of the page: it sets its texts, and returns what is wrong, in sentences. */
const PARTS = {
  service({ ready, workers }) {
    const { answering, expected } = workers;
    const phases = count(workers.phases).map(([phase, number]) => `${number} ${phase}`);
    say("ready", ready ? "yes" : "no");
    say("workers", `${answering} of ${expected} answer`);
    say("phases", phases.join(", ") || "not known");
    if (answering < expected) return [`Only ${answering} of ${expected} workers answer.`];
    if (workers.phases.includes("draining")) return ["The gateway is stopping."];
    return ready ? [] : ["The gateway is not ready yet."];
  },

  store({ store }) {
    say("store-state", store.up ? "answers" : "away: payments cannot be created, and webhooks are refused");
    say("store-kind", store.embedded ? "this replica’s own: there can be no second one" : "shared by all replicas");
    say("processes", number(store.processes_seen));
    return store.up ? [] : ["Redis does not answer."];
  },

  quantapay({ upstream, breakers, clock_skew_seconds: skew }) {
    const outcomes = new Map(Object.entries(upstream.last_outcomes));
    const states = new Map(Object.entries(breakers));
    const names = [...new Set([...outcomes.keys(), ...states.keys()])].sort();
    const known = skew !== null;
    say("skew", !known ? "not known yet" : `${Math.abs(skew).toFixed(1)} s ${skew < 0 ? "behind" : "ahead of"} ours`);
    fill("functions", names.map((name) => [name, outcome(outcomes.get(name)), breaker(states.get(name))]));
    return [
      ...names.filter((name) => isFailure(outcomes.get(name))).map((name) => `The last call of ${name} failed.`),
      ...names.filter((name) => (states.get(name) ?? "closed") !== "closed").map((name) => `${name} is left alone.`),
      ...(known && Math.abs(skew) > MOST_SKEW ? ["QuantaPay’s clock and ours are far apart."] : []),
    ];
  },

  budget({ budget }) {
    const { limit, remaining, shared } = budget;
    const meter = find("budget-meter");
    say("budget-left", `${number(remaining)} of ${number(limit)} calls`);
    say("budget-shared", shared ? "over all replicas" : "from a share of this replica’s own, until Redis is back");
    meter.max = limit;
    meter.low = limit * LEAST_BUDGET;
    meter.optimum = limit;
    meter.value = remaining;
    return remaining < limit * LEAST_BUDGET ? ["The budget of calls to QuantaPay is nearly spent."] : [];
  },

  webhooks({ backlog }) {
    const queues = Object.entries(backlog);
    const row = ([name, queue]) => [
      name,
      number(queue.waiting),
      queue.waiting ? duration(queue.age_seconds) : "–",
      number(queue.dead_letters),
    ];
    fill("subscribers", queues.map(row));
    return queues.flatMap(([name, queue]) => [
      ...(queue.age_seconds > OLDEST_EVENT ? [`Events to ${name} have been waiting for long.`] : []),
      ...(queue.dead_letters ? [`Events to ${name} were given up: see the dead letters.`] : []),
    ]);
  },

  configuration({ configuration }) {
    const newest = configuration.newest_in_force;
    say("in-force", newest ? "the newest file" : "an older one: the newest file has faults, which the log names");
    say("clients", number(configuration.clients));
    return newest ? [] : ["The newest configuration was not taken."];
  },
};

const BREAKERS = { closed: "closed", open: "open: not called", "half-open": "half-open: one call tries" };

const breaker = (state) => (state === undefined ? "–" : (BREAKERS[state] ?? state));

function outcome(code) {
  if (code === undefined) return "–";
  return code === "ok" ? "good" : `${isFailure(code) ? "failed" : "refused"}: ${code}`;
}

/** Other codes are QuantaPay's answers to what a caller asked for. */
function isFailure(code) {
  return code === "overloaded" || (code?.startsWith("upstream-") && code !== "upstream-rejected");
}

function count(texts) {
  const counted = new Map();
  for (const text of texts) counted.set(text, (counted.get(text) ?? 0) + 1);
  return [...counted];
}

const number = (value) => value.toLocaleString("en");

function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3_600)} h` : `${Math.round(seconds / 86_400)} days`;
}

const find = (id) => document.getElementById(id);
const say = (id, text) => setText(find(id), text);

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Fills a table's body, in place; the first cell of a row is its heading. Without a row, the note shows instead. */
function fill(id, rows) {
  const body = find(id);
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((texts, index) => {
    const row = body.rows[index] ?? body.insertRow();
    texts.forEach((text, column) => setText(row.cells[column] ?? row.appendChild(cell(column === 0)), text));
  });
  body.parentElement.hidden = rows.length === 0;
  find(`${id}-none`).hidden = rows.length > 0;
}

function cell(isHeading) {
  const made = document.createElement(isHeading ? "th" : "td");
  if (isHeading) made.scope = "row";
  return made;
}

function mark(id, isBad) {
  find(id).classList.toggle("bad", isBad);
}

function show(status) {
  const problems = [];
  for (const [id, part] of Object.entries(PARTS)) {
    const found = part(status);
    problems.push(...found);
    say(id, found.length ? "needs attention" : "in order");
    mark(id, found.length > 0);
  }
  const verdict = problems.length === 0 ? "All in order" : `${problems.length} to look at`;
  say("version", status.version);
  say("verdict-title", verdict);
  mark("verdict", problems.length > 0);
  list(problems);
  find("facts").hidden = false;
  return verdict;
}

function list(problems) {
  const items = find("problems");
  while (items.children.length > problems.length) items.lastElementChild.remove();
  const item = (index) => items.children[index] ?? items.appendChild(document.createElement("li"));
  problems.forEach((text, index) => setText(item(index), text));
}

function tell(contact, label, time, title) {
  say("contact", contact);
  say("clock-label", label);
  say("clock", time.toLocaleString());
  find("clock").dateTime = time.toISOString();
  setText(document.querySelector("title"), `${title} · QuantaPay gateway`);
}

async function ask() {
  const answer = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer.json();
}

async function look() {
  try {
    const verdict = show(await ask());
    answered = new Date();
    document.body.classList.remove("lost");
    tell("Live: asked every two seconds.", "Last answer:", answered, verdict);
  } catch {
    // No answer, or none that can be understood: what stands on the page must not pass for the present.
    document.body.classList.add("lost");
    const kept = answered ? " What stands below is from then." : "";
    const contact = `Contact lost.${kept} Trying again every two seconds.`;
    tell(contact, "No answer since:", answered ?? opened, "Contact lost");
  }
  setTimeout(look, EVERY);
}

find("unscripted").remove();
say("contact", "Asking the gateway…");
look();
