// How long this session may still run, in the status bar of JupyterLab, and a notice before its end.
//
// A prebuilt extension of JupyterLab 4 is a container of webpack's module federation: an object
// with `init(scope)` and `get(module)`. Written by hand, it needs no build, and what is read here
// is what runs. Modules of JupyterLab come from the scope that it shares with its extensions.
//
// The agent writes `session.json` beside this file: `site`, `started_at` and `ends_at` (seconds
// since 1970, by the clock of the job's node), `home` ("job": ends with the session).
(() => {
  'use strict';

  const NAME = 'offload-walltime';
  const BASE = document.currentScript.src.replace(/[^/]*$/, '');
  const MINUTE = 60;
  // Seconds before the end, the most urgent one first.
  const STAGES = [
    { before: 5 * MINUTE, tone: 'bad' },
    { before: 15 * MINUTE, tone: 'warn' }
  ];
  const ICONS = {
    // clock, triangle, filled clock: shape, word and colour each tell the stage
    ok: '<circle cx="8" cy="8" r="6.4" fill="none" stroke="currentColor" stroke-width="1.6"/>' +
      '<path fill="none" stroke="currentColor" stroke-width="1.6" d="M8 4v4.3l2.8 1.7"/>',
    warn: '<path fill="none" stroke="currentColor" stroke-width="1.6" stroke-linejoin="round" ' +
      'd="M8 1.8 15 14.2H1ZM8 6v4.2M8 11.6v1.2"/>',
    bad: '<path fill="currentColor" fill-rule="evenodd" ' +
      'd="M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1Zm-.9 2.6h1.8v4l2.6 1.6-.9 1.5-3.5-2.2Z"/>'
  };
  const CSS = `
    .ofl-walltime { display: inline-flex; align-items: center; gap: 4px; padding: 0 6px;
      cursor: pointer; white-space: nowrap; min-height: 24px; }
    .ofl-walltime:hover { background: var(--jp-layout-color3); }
    .ofl-walltime:focus-visible { outline: 2px solid var(--jp-brand-color1); outline-offset: -2px; }
    .ofl-walltime svg { width: 14px; height: 14px; flex: none; }
    .ofl-walltime[data-tone='warn'] { color: #8a5a00; font-weight: 600; }
    .ofl-walltime[data-tone='bad'] { color: #c4161a; font-weight: 600; }
    [data-jp-theme-light='false'] .ofl-walltime[data-tone='warn'] { color: #ffda6a; }
    [data-jp-theme-light='false'] .ofl-walltime[data-tone='bad'] { color: #ea868f; }
    .ofl-walltime-details { display: grid; grid-template-columns: auto 1fr; gap: 4px 16px;
      max-width: 30em; margin: 0; }
    .ofl-walltime-details dt { color: var(--jp-ui-font-color2); }
    .ofl-walltime-details dd { margin: 0; }
    .ofl-walltime-details p { grid-column: 1 / -1; margin: 8px 0 0; }`;

  // --- what is said ------------------------------------------------------------------------------

  /** "3 h 12 min", "12 min", "less than 1 min". */
  function duration(seconds) {
    if (seconds < MINUTE) {
      return 'less than 1 min';
    }
    const minutes = Math.round(seconds / MINUTE);
    const hours = Math.floor(minutes / 60);
    const rest = minutes % 60;
    return [hours ? `${hours} h` : '', rest || !hours ? `${rest} min` : ''].filter(Boolean).join(' ');
  }

  function label(session, left) {
    return left > 0 ? `${session.site}, ${duration(left)} left` : `${session.site}, time is up`;
  }

  function tone(left) {
    const stage = STAGES.find(({ before }) => left <= before);
    return stage ? stage.tone : 'ok';
  }

  /** The time of day where the user is, with the day if it is another one. */
  function clock(session, at) {
    const date = new Date((at - session.ahead) * 1000);
    const today = date.toDateString() === new Date().toDateString();
    const time = { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' };
    const day = today ? {} : { weekday: 'short', day: 'numeric', month: 'short' };
    return date.toLocaleString(undefined, { ...day, ...time });
  }

  function advice(session) {
    return session.home === 'job'
      ? 'Download what you want to keep: its files end with it.'
      : 'Save what you want to keep.';
  }

  // --- the session -------------------------------------------------------------------------------

  async function load() {
    const answer = await fetch(`${BASE}session.json`, { cache: 'no-store', credentials: 'same-origin' });
    if (!answer.ok) {
      throw new Error(`no ${NAME}: HTTP status ${answer.status}`);
    }
    const session = await answer.json();
    // The clock of the node counts, not that of this computer: they may differ by minutes.
    const now = Date.parse(answer.headers.get('Date') || '');
    session.ahead = Number.isNaN(now) ? 0 : Math.round((now - Date.now()) / 1000);
    return session;
  }

  function secondsLeft(session) {
    return session.ends_at - session.ahead - Date.now() / 1000;
  }

  /** Tell once, in this browser, for each stage of this session. */
  function notify(session, left, Notification) {
    const due = STAGES.find(({ before }) => left <= before);
    if (!due || left <= 0) {
      return;
    }
    const key = `${NAME}:${session.site}:${session.ends_at}`;
    const told = Number(window.localStorage.getItem(key) || Infinity);
    if (told <= due.before) {
      return;
    }
    window.localStorage.setItem(key, String(due.before));
    // JupyterLab shows 140 characters.
    const text = `${session.site}: this session ends at ${clock(session, session.ends_at)}, ` +
      `in ${duration(left)}. ${advice(session)}`;
    const kind = due.tone === 'bad' ? 'error' : 'warning';
    Notification.emit(text, kind, { autoClose: false });
  }

  // --- in the page -------------------------------------------------------------------------------

  function details(session, Widget) {
    const list = document.createElement('dl');
    list.className = 'ofl-walltime-details';
    const facts = [
      ['Site', session.site],
      ['Started', clock(session, session.started_at)],
      ['Ends', clock(session, session.ends_at)],
      ['Left', secondsLeft(session) > 0 ? duration(secondsLeft(session)) : 'nothing']
    ];
    for (const [name, value] of facts) {
      list.appendChild(document.createElement('dt')).textContent = name;
      list.appendChild(document.createElement('dd')).textContent = value;
    }
    list.appendChild(document.createElement('p')).textContent =
      `Kernels and terminals end with the session. ${advice(session)}`;
    return new Widget({ node: list });
  }

  function statusItem(Widget, onClick) {
    const node = document.createElement('div');
    node.className = 'ofl-walltime';
    node.tabIndex = 0;
    node.setAttribute('role', 'button');
    node.title = 'How long this session may still run';
    node.addEventListener('click', onClick);
    node.addEventListener('keydown', event => {
      if (event.key === 'Enter' || event.key === ' ') {
        event.preventDefault();
        onClick();
      }
    });
    const text = document.createElement('span');
    const icon = document.createElement('span');
    icon.setAttribute('aria-hidden', 'true');
    icon.style.display = 'inline-flex';
    node.append(icon, text);
    const widget = new Widget({ node });
    widget.show_ = (words, stage) => {
      if (text.textContent !== words) {
        text.textContent = words;
      }
      if (node.dataset.tone !== stage) {
        node.dataset.tone = stage;
        icon.innerHTML = `<svg viewBox="0 0 16 16">${ICONS[stage]}</svg>`;
      }
    };
    return widget;
  }

  function start(session, statusBar, { Notification, showDialog, Dialog }, { Widget }) {
    const open = () =>
      showDialog({
        title: 'Walltime of this session',
        body: details(session, Widget),
        buttons: [Dialog.okButton({ label: 'Close' })]
      });
    const item = statusBar ? statusItem(Widget, open) : null;
    if (item) {
      document.head.appendChild(document.createElement('style')).textContent = CSS;
      statusBar.registerStatusItem(`${NAME}:item`, { item, align: 'left', rank: 100 });
    }
    const renew = () => {
      const left = secondsLeft(session);
      if (item) {
        item.show_(label(session, left), tone(left));
      }
      notify(session, left, Notification);
      // Often enough that no minute is shown wrong, and none of the stages comes late.
      window.setTimeout(renew, left > 0 ? Math.min(10, left % MINUTE + 0.5) * 1000 : 60000);
    };
    renew();
  }

  // --- the container -----------------------------------------------------------------------------

  let shared = {};

  const older = (a, b) => {
    const [left, right] = [a, b].map(version => version.split(/[.-]/).map(Number));
    const at = left.findIndex((part, index) => part !== right[index]);
    return at >= 0 && left[at] < right[at];
  };

  /** A module of JupyterLab itself: the version that it uses, as webpack chooses a singleton. */
  async function need(name) {
    const versions = shared[name];
    if (!versions) {
      return null;
    }
    const key = Object.keys(versions).reduce((a, b) =>
      !versions[a].loaded && (versions[b].loaded || older(a, b)) ? b : a
    );
    return (await versions[key].get())();
  }

  async function plugin() {
    const [apputils, widgets, statusbar] = await Promise.all(
      ['@jupyterlab/apputils', '@lumino/widgets', '@jupyterlab/statusbar'].map(need)
    );
    return {
      id: `${NAME}:plugin`,
      description: 'How long this session may still run, and a notice before its end',
      autoStart: true,
      optional: statusbar ? [statusbar.IStatusBar] : [],
      activate: (app, statusBar) => {
        // Not awaited: JupyterLab waits for its extensions before it shows itself.
        load()
          .then(session => start(session, statusBar, apputils, widgets))
          .catch(error => console.warn(`${NAME}: ${error}`));
      }
    };
  }

  const container = {
    init: scope => {
      shared = scope;
    },
    get: async () => {
      const made = await plugin();
      return () => ({ __esModule: true, default: made });
    }
  };
  (window._JUPYTERLAB = window._JUPYTERLAB || {})[NAME] = container;
})();
