/* In the browser: a page that was sent before its session was made.
 *
 * It shows that the app is starting, has unmodified BokehJS draw the whole document into one element, and says in plain
 * words if there will be none. `frame.py` puts in the settings and what loads BokehJS; `docs/early-pages.md` says what people see.
 */
(function (settings, load) {
  "use strict";

  const STYLE = `
    :host { color-scheme: light dark; color: CanvasText; font: 16px/1.5 system-ui, sans-serif;
      display: flex; align-items: center; justify-content: center; animation: appear .2s ease-out .15s both; }
    :host(.page) { position: fixed; inset: 0; background: Canvas; z-index: 1000; }
    :host(.embedded) { min-height: 8rem; color-scheme: inherit; color: inherit; }
    div { max-width: 26rem; padding: 1.5rem; text-align: center; }
    i { display: block; width: 2rem; height: 2rem; margin: 0 auto .75rem; box-sizing: border-box; border-radius: 50%;
      border: 3px solid color-mix(in srgb, currentColor 20%, transparent); border-top-color: currentColor;
      animation: turn 1s linear infinite; }
    b { display: block; font-weight: 600; }
    p { margin: .25rem 0 1rem; opacity: .8; }
    button { font: inherit; color: inherit; background: transparent; padding: .35rem 1rem; cursor: pointer;
      border: 1px solid color-mix(in srgb, currentColor 35%, transparent); border-radius: .35rem; }
    button:hover { background: color-mix(in srgb, currentColor 8%, transparent); }
    @keyframes appear { from { opacity: 0 } }
    @keyframes turn { to { transform: rotate(1turn) } }
    @media (prefers-reduced-motion: reduce) { i { animation-duration: 4s } }`;
  const TRIES = 6;
  const FORGET = 60000;
  const ANNOUNCE_TIME = 100;
  const REHEARSAL_PAUSE = 50;  // an app that is done by then has no time for one
  const REHEARSAL_TIME = 1000;  // nothing is drawn in a tab that is not in front
  const STAGE = `position: fixed; top: 0; left: 0; width: 400px; height: 300px; contain: strict;
    visibility: hidden; pointer-events: none;`;

  const MISSING = ["This page could not be loaded", "Some of its scripts did not arrive."];
  const FAILED = ["This app could not start", "Something went wrong on the server, whose log says what."];
  const UNSHOWN = ["This app could not be shown", "The browser's console says why."];
  const LOST = ["The server cannot be reached", "The connection was lost while the app was starting."];

  const target = document.createElement("div");
  target.id = settings.elementid;
  if (settings.page) target.style.display = "contents";
  const notice = document.createElement("aperture-notice");
  notice.className = settings.page ? "page" : "embedded";
  notice.setAttribute("role", "status");
  const text = notice.attachShadow({ mode: "open" });
  const place = document.getElementById(settings.elementid);
  if (place == null) return;
  place.replaceWith(target, notice);
  show("<i></i>Starting…");
  const watch = new MutationObserver(() => { if (target.hasChildNodes()) clear(); });
  watch.observe(target, { childList: true });

  function show(html) {
    text.innerHTML = `<style>${STYLE}</style><div>${html}</div>`;
  }

  function clear() {
    watch.disconnect();
    notice.remove();
  }

  function say([what, why]) {
    show(`<b>${what}</b><p>${why}</p><button>Try again</button>`);
    text.querySelector("button").addEventListener("click", () => location.reload());
  }

  /* How often this page has come back by itself; null where that cannot be kept, and so not be bounded. */
  function tries(change) {
    const key = "aperture-tries:" + location.pathname;
    try {
      const { count, at } = JSON.parse(sessionStorage.getItem(key) ?? "null") ?? { count: 0, at: 0 };
      const now = Date.now() - at > FORGET ? 0 : count;
      if (change != null) sessionStorage.setItem(key, JSON.stringify({ count: change(now), at: Date.now() }));
      return now;
    } catch {
      return null;
    }
  }

  /* BokehJS gives up a first connection that was cut. There is nothing in the page to lose. */
  async function reload() {
    for (;;) {
      const before = tries(count => count + 1);
      if (before == null || before >= TRIES || !settings.page) return say(LOST);
      await pause(before && (0.5 + Math.random()) * 125 * 2 ** before);
      try {
        /* First see whether somebody answers, or the browser would show a page of its own. */
        const answer = await fetch(location.href, { method: "HEAD" });
        if (answer.status < 500) return location.reload();
      } catch {}
    }
  }

  function appUrl(scheme, end) {
    const base = settings.absolute_url ?? (window.frameElement?.tagName === "IFRAME"
      ? frameElement.dataset.absoluteUrl : undefined);
    const { protocol, host, pathname } = new URL(base ?? location.href, document.baseURI);
    const path = settings.app_path ?? (base == null ? location.pathname : pathname).replace(/\/+$/, "");
    return `${scheme}${protocol === "https:" ? "s" : ""}://${host}${path === "/" ? "" : path}${end}`;
  }

  function preloaded(url) {
    const link = document.createElement("link");
    if (!link.relList?.supports?.("preload")) return null;
    return new Promise((resolve, reject) => {
      Object.assign(link, { rel: "preload", as: "script", href: url, onload: resolve, onerror: reject });
      document.head.append(link);
    });
  }

  function pause(time) {
    return new Promise(resolve => setTimeout(resolve, time));
  }

  /* The app's code may keep the event loop that sends the scripts, so it waits for this. */
  async function announce() {
    const payload = settings.token.split(".")[0].replace(/-/g, "+").replace(/_/g, "/");
    const headers = { "Bokeh-Session-Id": JSON.parse(atob(payload)).session_id };
    await fetch(appUrl("http", "/autoload.js"), { method: "HEAD", headers, credentials: "include" });
  }

  /* First all scripts are fetched, and then they run: no word leaves a page while they do. They are not fetched as
   * scripts, which the browser would compile before it says that they are here; it has them in its cache then. The
   * server sends what it has begun to send before the code runs. */
  async function begin() {
    const answers = settings.files.map(url => fetch(url, { mode: "no-cors", credentials: "include" }));
    /* The websocket says it, too. */
    const told = Promise.all(answers).then(announce).catch(() => {});
    try {
      await Promise.all(answers.map(async (answer, place) => {
        try {
          const file = await answer;
          if (file.type === "opaque" || file.status >= 400) throw file;
          await file.arrayBuffer();
        } catch {
          /* The page's policy may allow scripts alone. And of a file of another origin it is told neither the status
           * nor when all of it is here. */
          await preloaded(settings.files[place]);
        }
      }));
    } catch {
      return say(MISSING);
    }
    await Promise.race([told, pause(ANNOUNCE_TIME)]);
    load();
  }

  /* BokehJS takes three times as long for a first plot as for a second one, as the browser compiles what it needs.
   * While the app's code runs there is time for one that nobody sees, nor finds in `Bokeh.documents`. */
  async function rehearse() {
    const known = Bokeh.documents.length;
    await pause(REHEARSAL_PAUSE);
    if (Bokeh.documents.length > known || !notice.isConnected) return;
    const { Document } = Bokeh.require("document");
    const play = Document.from_json(settings.rehearsal);
    Bokeh.documents.splice(Bokeh.documents.indexOf(play), 1);
    const stage = document.createElement("div");
    stage.setAttribute("style", STAGE);
    stage.setAttribute("aria-hidden", "true");
    document.body.append(stage);
    try {
      const views = await Bokeh.embed.add_document_standalone(play, stage);
      await Promise.race([new Promise(done => play.is_idle ? done() : play.idle.connect(done)), pause(REHEARSAL_TIME)]);
      views.clear();  // also that of the document's notifications
      performance.mark("aperture-rehearsed");
    } finally {
      play.clear();
      stage.remove();
    }
  }

  async function start() {
    try {
      const drawn = Bokeh.embed.add_document_from_session(appUrl("ws", "/ws"), settings.token, target, [], settings.page);
      rehearse().catch(error => console.debug("Early page: BokehJS could not rehearse:", error));
      await drawn;
      clear();
      if (settings.page) tries(() => 0);
      console.log("Bokeh items were rendered successfully");
    } catch (error) {
      console.error("Error rendering Bokeh items:", error);
      if (target.hasChildNodes()) return clear();
      const cut = /Lost websocket connection, (\d+)|Could not open websocket/.exec(error?.message ?? "");
      if (cut == null) say(UNSHOWN);
      else if (cut[1] === "1011") say(FAILED);
      else reload();
    }
  }

  target.addEventListener("aperture-loaded", start, { once: true });
  begin();
})
