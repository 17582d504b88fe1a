// The page comes together here: storage, conversations, views, keys.

import { AgentView } from "./agent-view.js";
import { Agents } from "./agents.js";
import { ApiError, apiKey, listModels } from "./api.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { announce, installMenu, say } from "./dialogs.js";
import { byId, copyText, h, icon } from "./dom.js";
import { setLanguage, t, translate } from "./i18n.js";
import { installKeys, sends, SHORTCUTS } from "./keyboard.js";
import { applyTheme, readPreferences, writePreferences } from "./preferences.js";
import { askKey, openPreferences, openShortcuts } from "./preferences-dialog.js";
import { installer, registerWorker } from "./pwa.js";
import { RunList } from "./run-list.js";
import { SettingsError } from "./settings.js";
import { openSettings } from "./settings-sheet.js";
import { Sidebar } from "./sidebar.js";
import { openStore } from "./store.js";
import { Transcript } from "./transcript.js";

const RETRY_MS = 5000;
// Each is one that the bundled model answers rightly in both languages.
const PILOT_EXAMPLES = ["exampleSum", "exampleEquation", "exampleReverse", "exampleFunction"];
const EXAMPLES = ["exampleCode", "exampleExplain", "exampleMath", "exampleLetter"];

const preferences = readPreferences();
const narrow = matchMedia("(max-width: 820px)");
let chat, sidebar, transcript, composer, agents, agentView, runList;
let view = "chat";
let askingKey = null;
let retry = null;

async function start() {
  setLanguage(preferences.language);
  applyTheme(preferences.theme);
  for (const element of document.querySelectorAll("[data-icon]")) element.prepend(icon(element.dataset.icon));
  translate(document);
  const store = await openStore();
  chat = new Chat(store, {
    settings: () => preferences.settings,
    model: () => byId("model").value,
    askKey: () => giveKey(),
    failed: (error) => say(t("errorStorage", { message: error.message })),
  });
  transcript = new Transcript(chat, messageActions);
  sidebar = new Sidebar(chat, { go });
  composer = new Composer(composerActions);
  agents = new Agents({ askKey: () => giveKey() });
  agentView = new AgentView(agents, { go: goToRun, titled: showTitle, sends: (event) => sends(event, preferences.sendWith) });
  runList = new RunList(agents, { go: goToRun });
  agents.addEventListener("about", () => (byId("views").hidden = !agents.about.enabled));
  chat.addEventListener("thread", showThread);
  chat.addEventListener("running", ({ detail }) => showRunning(detail));
  installMenu();
  installButtons();
  installKeys(keyActions);
  addEventListener("hashchange", openFromAddress);
  if (!store.isLasting) say(t("noStorage"));
  await chat.loadList();
  await openFromAddress();
  registerWorker();
  if (!narrow.matches) keyActions.focus();
  document.documentElement.dataset.ready = "";
  await loadModels();
}

// ---- where the person is ----

function go(id) {
  const address = id ? `#/c/${id}` : "#/";
  if (location.hash === address) openFromAddress();
  else location.hash = address;
}

function goToRun(id) {
  const address = id ? `#/agent/${id}` : "#/agent";
  if (location.hash === address) openFromAddress();
  else location.hash = address;
}

async function openFromAddress() {
  const run = /^#\/agent(?:\/([\w-]+))?$/.exec(location.hash);
  showView(run ? "agent" : "chat");
  if (run) {
    agents.open(run[1] ?? null);
    agentView.show();
    closeDrawer();
    if (!narrow.matches) agentView.focus();
    return;
  }
  agents.open(null);
  const id = /^#\/c\/(\w+)$/.exec(location.hash)?.[1] ?? null;
  const same = id !== null && id === chat.thread.conversation.id;
  if (!same && !(await chat.open(id)) && id) history.replaceState(null, "", "#/");
  closeDrawer();
  if (!id && !narrow.matches) composer.focus();
}

function showView(wanted) {
  view = wanted;
  agents.isWatched = view === "agent";
  document.body.dataset.view = view;
  byId("skip").href = view === "agent" ? "#agent" : "#question";
  for (const link of byId("views").children) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  byId("sidebar").setAttribute("aria-label", t(view === "agent" ? "runs" : "conversations"));
  showTitle();
}

// A new conversation has its address as soon as something was said in it.
function keepAddress() {
  if (chat.isKept) history.replaceState(null, "", `#/c/${chat.thread.conversation.id}`);
}

function showThread() {
  const { conversation } = chat.thread;
  showTitle();
  byId("conversation-menu").hidden = !chat.isKept;
  composer.setBusy(Boolean(chat.run));
  composer.showSettings(conversation.settings);
}

function showTitle() {
  const said = view === "agent" ? agents.run && agentView.title : chat.thread.conversation.title;
  byId("title").textContent = said || t(view === "agent" ? "newTask" : "newConversation");
  document.title = said ? `${said} · deepground` : "deepground";
}

function showRunning({ thread, began }) {
  if (thread !== chat.thread) return;
  composer.setBusy(began);
  announce(t(began ? "replyStarted" : "replyFinished"));
}

// ---- what the views ask for ----

/** Do something that sends the settings along; shows the one that cannot be sent. */
async function sending(action) {
  if (!byId("model").value && !(await loadModels())) {
    say(t("notSentOffline"));
    return false;
  }
  try {
    action();
    keepAddress();
    return true;
  } catch (error) {
    if (!(error instanceof SettingsError)) throw error;
    showSettings(error);
    say(t("notSent"));
    return false;
  }
}

const messageActions = {
  edit: async (message, text) => sending(() => chat.edit(message, text)),
  regenerate: (message) => sending(() => chat.regenerate(message)),
  answerCalls: (results) => sending(() => chat.answerCalls(results)),
  step: (message, by) => chat.step(message, by),
  branch: async (message) => {
    go(await chat.branch(message));
    say(t("branched"));
  },
  sends: (event) => sends(event, preferences.sendWith),
};

const composerActions = {
  ask: (text, files) => {
    transcript.follows = true;
    return sending(() => chat.ask(text, files));
  },
  stop: () => chat.stop(),
  changeSettings: (changes) => changeSettings(changes),
  editLast: () => {
    const last = chat.thread.path().findLast(({ role }) => role === "user");
    const view = last && transcript.viewOf(last);
    view?.edit();
    return Boolean(view);
  },
  sends: (event) => sends(event, preferences.sendWith),
  say,
};

function changeSettings(changes) {
  chat.changeSettings(changes);
  composer.showSettings(chat.thread.conversation.settings);
}

function showSettings(problem) {
  openSettings({ ...chat.thread.conversation.settings }, {
    change: changeSettings,
    useForNew: () => {
      preferences.settings = { ...chat.thread.conversation.settings };
      writePreferences(preferences);
    },
  }, problem);
}

function showPreferences() {
  openPreferences(preferences, {
    changed: (name) => {
      writePreferences(preferences);
      if (name === "theme") applyTheme(preferences.theme);
      if (name === "language") {
        changeLanguage();
        document.querySelector("dialog[open]")?.close();
        showPreferences();
      }
    },
    exportAll: () => sidebar.exportAll(),
    removeAll: () => sidebar.removeAll(),
    enterKey: async () => (await askKey({ wrong: false })) && loadModels(),
    install: installer(),
  });
}

function changeLanguage() {
  setLanguage(preferences.language);
  translate(document);
  transcript.show({ anew: true });
  sidebar.show();
  composer.translate();
  showThread();
  showExamples();
  agentView.show({ anew: true });
  runList.show();
  showView(view);
}

// ---- the server ----

// One dialog at a time, however many requests were turned away.
function giveKey() {
  askingKey ??= askKey({ wrong: Boolean(apiKey()) }).finally(() => (askingKey = null));
  return askingKey;
}

/** Show the server's models; whether it told them. Without an answer it is asked again later. */
async function loadModels() {
  clearTimeout(retry);
  try {
    showModels(await listModels());
    byId("offline").hidden = true;
    if (!agents.about) await agents.load();
    return true;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) return (await giveKey()) && loadModels();
    byId("offline").hidden = false;
    clearTimeout(retry);
    retry = setTimeout(loadModels, RETRY_MS);
    return false;
  }
}

function showModels(models) {
  const picker = byId("model");
  const ids = models.map(({ id }) => id);
  picker.replaceChildren(...ids.map((id) => h("option", { value: id, text: id })));
  picker.value = ids.includes(preferences.model) ? preferences.model : ids[0];
  picker.disabled = false;
  byId("model-name").textContent = ids[0];
  showExamples();
}

function showExamples() {
  const keys = byId("model-name").textContent === "pilot" ? PILOT_EXAMPLES : EXAMPLES;
  byId("examples").replaceChildren(
    ...keys.map((key) => h("li", {}, h("button", { type: "button", class: "example", text: t(key), on: { click: () => composer.fill(t(key)) } }))),
  );
}

// ---- the frame ----

function toggleSidebar() {
  if (narrow.matches) {
    const open = document.documentElement.dataset.drawer !== "open";
    if (open) openDrawer();
    else closeDrawer();
    return;
  }
  preferences.sidebar = !preferences.sidebar;
  writePreferences(preferences);
  showSidebarState();
}

function showSidebarState() {
  const root = document.documentElement;
  if (preferences.sidebar) delete root.dataset.sidebar;
  else root.dataset.sidebar = "closed";
  const drawer = root.dataset.drawer === "open";
  byId("sidebar").inert = narrow.matches ? !drawer : !preferences.sidebar;
  byId("main").inert = narrow.matches && drawer;
  byId("scrim").hidden = !(narrow.matches && drawer);
}

function openDrawer() {
  document.documentElement.dataset.drawer = "open";
  showSidebarState();
  byId(view === "agent" ? "new-task" : "new").focus();
}

function closeDrawer() {
  const wasOpen = document.documentElement.dataset.drawer === "open";
  delete document.documentElement.dataset.drawer;
  showSidebarState();
  if (wasOpen) byId("show-sidebar").focus();
}

function installButtons() {
  showSidebarState();
  narrow.addEventListener("change", closeDrawer);
  for (const id of ["show-sidebar", "hide-sidebar"]) byId(id).addEventListener("click", toggleSidebar);
  byId("scrim").addEventListener("click", closeDrawer);
  for (const id of ["new", "new-task", "new-small"]) byId(id).addEventListener("click", keyActions.create);
  byId("open-settings").addEventListener("click", () => showSettings());
  byId("open-preferences").addEventListener("click", showPreferences);
  byId("open-shortcuts").addEventListener("click", () => openShortcuts(SHORTCUTS));
  byId("conversation-menu").addEventListener("click", ({ currentTarget }) => sidebar.menu(currentTarget, chat.thread.conversation.id));
  byId("model").addEventListener("change", ({ target }) => {
    preferences.model = target.value;
    writePreferences(preferences);
  });
}

const keyActions = {
  focus: () => (view === "agent" ? agentView : composer).focus(),
  create: () => {
    if (view === "agent") goToRun(null);
    else go(null);
    keyActions.focus();
  },
  search: () => {
    if (view === "agent") return false;
    if (narrow.matches) openDrawer();
    else if (!preferences.sidebar) toggleSidebar();
    byId("search").focus();
    byId("search").select();
    return true;
  },
  toggleSidebar,
  settings: () => view === "chat" && showSettings(),
  stop: () => {
    if (document.documentElement.dataset.drawer === "open") closeDrawer();
    else if (view === "chat" && chat.run) chat.stop();
    else return false;
    return true;
  },
  copyLast: async () => {
    if (view !== "chat") return;
    const last = chat.thread.path().findLast(({ role }) => role === "assistant");
    if (last) say(t((await copyText(last.content)) ? "copied" : "copyFailed"));
  },
  regenerate: () => {
    const { last } = chat.thread;
    if (view === "chat" && last?.role === "assistant" && !chat.run) messageActions.regenerate(last);
  },
  help: () => openShortcuts(SHORTCUTS),
};

start();
