"use strict";
// Everything that agents wrote is put in as text, never as markup.
const find = (id) => document.getElementById(id);
let source = null;
let due = false;

async function show() {
  const answer = await fetch("/api/runs?limit=50");
  find("login").hidden = answer.status !== 401;
  if (!answer.ok) {
    find("runs").hidden = true;
    find("state").textContent = answer.status === 401 ? "Log in with a token, or open the login link." : "The server answers " + answer.status + ".";
    return;
  }
  const list = await answer.json();
  const rows = list.items.map((run) => {
    const row = document.createElement("tr");
    for (const text of [run.id, run.title, run.status, run.reason_code, run.created_at]) {
      row.insertCell().textContent = text ?? "";
    }
    return row;
  });
  find("runs").tBodies[0].replaceChildren(...rows);
  find("runs").hidden = false;
  find("state").textContent = list.total + " runs";
  follow();
}

function follow() {
  if (source !== null) return;
  source = new EventSource("/api/stream?class=lifecycle");
  source.onmessage = () => {
    if (due) return;
    due = true;
    setTimeout(() => { due = false; show().catch(fail); }, 250);
  };
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) { source = null; setTimeout(() => show().catch(fail), 2000); }
  };
}

function fail() {
  find("state").textContent = "The server does not answer.";
}

find("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await fetch("/session", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token: find("token").value }),
  });
  find("token").value = "";
  if (answer.ok) await show();
  else find("state").textContent = "That token is not known.";
});

show().catch(fail);
