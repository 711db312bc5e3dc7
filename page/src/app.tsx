// The whole page.

import type { JSX } from "preact";
import { useContext, useEffect, useRef, useState } from "preact/hooks";

import { Composer } from "./composer";
import { Context } from "./context";
import { useAsk } from "./dialogs";
import { Icon } from "./icons";
import { MemoryDialog } from "./memory";
import { Messages } from "./messages";
import { SettingsDialog } from "./settings";
import { Sidebar } from "./sidebar";
import { loadSettings, saveSettings, type Settings } from "./storage";
import type { Talk } from "./talk";
import { browserLanguage, wordsOf } from "./words";

type Open = "menu" | "settings" | "memory" | null;

export function App({ talk }: { talk: Talk }): JSX.Element {
  const [settings, setSettings] = useState(loadSettings);
  const [open, setOpen] = useState<Open>(null);
  const [ask, question] = useAsk();
  const language = settings.language === "auto" ? browserLanguage() : settings.language;
  const words = wordsOf(language);
  const { title } = talk.current;
  useEffect(() => {
    const root = document.documentElement;
    root.lang = language;
    root.dataset.theme = settings.theme;
    document.title = title ? `${title} – ${words.title}` : words.title;
  }, [language, settings.theme, title]);
  const close = (): void => setOpen(null);
  const page = useRef<HTMLDivElement>(null);
  const menuWasOpen = useRef(false);
  useEffect(() => {
    // Into the menu, and back to the button that opened it.
    const menu = open === "menu";
    if (menu !== menuWasOpen.current) page.current!.querySelector<HTMLElement>(menu ? ".sidebar button" : "header button")!.focus();
    menuWasOpen.current = menu;
  }, [open]);
  const change = (next: Settings): void => {
    setSettings(next);
    saveSettings(next);
  };
  return (
    <Context.Provider value={{ talk, words }}>
      <div
        ref={page}
        class={open === "menu" ? "page with-menu" : "page"}
        onKeyDown={(event) => event.key === "Escape" && open === "menu" && close()}
      >
        <Sidebar ask={ask} close={close} />
        <div class="shade" onClick={close} />
        <div class="talk" inert={open === "menu"}>
          <Header open={setOpen} />
          <main>
            <h1 class="hidden">{title || words.title}</h1>
            <Messages />
            <Trouble />
            <Composer />
          </main>
        </div>
        <p class="hidden" role="status">
          {talk.announcement(words)}
        </p>
      </div>
      {open === "settings" && <SettingsDialog settings={settings} change={change} ask={ask} close={close} />}
      {open === "memory" && <MemoryDialog close={close} />}
      {question}
    </Context.Provider>
  );
}

function Header({ open }: { open: (what: Open) => void }): JSX.Element {
  const { talk, words } = useContext(Context);
  const model = talk.modelOf(talk.current);
  const { persona, base } = talk.current;
  return (
    <header>
      <button type="button" class="quiet phone" title={words.openMenu} aria-label={words.openMenu} onClick={() => open("menu")}>
        <Icon name="menu" />
      </button>
      <select
        aria-label={words.model}
        value={model?.id ?? ""}
        onChange={(event) => {
          const id = event.currentTarget.value;
          void talk.change((conversation) => Object.assign(conversation, { model: id, persona: null }));
        }}
      >
        {talk.models.map(({ id }) => (
          <option key={id}>{id}</option>
        ))}
      </select>
      {model && model.personas.length > 0 && !base && (
        <select
          aria-label={words.persona}
          value={persona ?? ""}
          onChange={(event) => {
            const name = event.currentTarget.value || null;
            void talk.change((conversation) => (conversation.persona = name));
          }}
        >
          <option value="">{`${words.persona}: ${words.noPersona}`}</option>
          {model.personas.map((name) => (
            <option key={name} value={name}>
              {`${words.persona}: ${name}`}
            </option>
          ))}
        </select>
      )}
      <span class="space" />
      <button type="button" class="quiet" onClick={() => open("memory")}>
        <Icon name="memory" />
        {words.memory}
      </button>
      <button type="button" class="quiet" onClick={() => open("settings")}>
        <Icon name="gear" />
        {words.settings}
      </button>
    </header>
  );
}

function Trouble(): JSX.Element {
  const { talk, words } = useContext(Context);
  return (
    <div role="alert">
      {talk.trouble && (
        <div class="trouble row">
          <p>{talk.trouble(words)}</p>
          {talk.models.length === 0 && (
            <button type="button" onClick={() => void talk.loadModels()}>
              {words.retry}
            </button>
          )}
          <button type="button" class="quiet" title={words.dismiss} aria-label={words.dismiss} onClick={() => talk.fail(null)}>
            <Icon name="close" />
          </button>
        </div>
      )}
    </div>
  );
}
