// Requests to the API.

const TIMEOUT = 8_000;

export async function fetchJson(path, options = {}) {
  const response = await fetch(path, { ...options, signal: AbortSignal.timeout(TIMEOUT) }).catch((error) => {
    throw new Error(error.name === "TimeoutError" ? `no answer within ${TIMEOUT / 1000} s` : "Tocsin does not answer");
  });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error ?? `the server answered ${response.status}`);
  return body;
}

export const query = (values) => {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `?${new URLSearchParams(given)}` : "";
};

let visit = 0;

// The fetchers of the view that was shown until now stop.
export const leave = () => { visit += 1; };

// Fetches again when asked, one request at a time, and not more often than the server needs for ten times its answer.
export function fetcher(answered) {
  const mine = visit;
  let wanted = null;
  let busy = false;
  let free = 0;                // when the same may be asked again
  let timer = 0;
  let shownFor = "";

  async function run() {
    clearTimeout(timer);
    if (busy || wanted === null || mine !== visit) return;
    const path = wanted;
    wanted = null;
    busy = true;
    const began = performance.now();
    let answer = null;
    let problem = null;
    try {
      answer = await fetchJson(path);
    } catch (error) {
      problem = error.message;
    }
    busy = false;
    free = performance.now() + Math.max(1_000, 10 * (performance.now() - began));
    shownFor = path;
    if (mine === visit && (wanted === null || wanted === path)) answered(answer, problem);
    if (wanted !== null) schedule();
  }

  function schedule() {
    clearTimeout(timer);
    timer = setTimeout(run, wanted === shownFor ? Math.max(0, free - performance.now()) : 0);
  }

  // Another path is asked for at once, the same one after a pause.
  return (path) => {
    if (wanted === path) return;
    wanted = path;
    if (!busy) schedule();
  };
}
