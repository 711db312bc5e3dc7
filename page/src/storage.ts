// What this browser keeps: conversations in IndexedDB, settings in localStorage.

import { clear, createStore, del, get, update, values } from "idb-keyval";

import { merged, type Conversation } from "./conversation";

const store = createStore("sioconv", "conversations");
const tabs = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("sioconv");

/** All conversations, the newest first. */
export async function loadAll(): Promise<Conversation[]> {
  const all = await values<Conversation>(store);
  return all.sort((a, b) => b.updated - a.updated);
}

export async function load(id: string): Promise<Conversation | undefined> {
  return get<Conversation>(id, store);
}

/** Keeps a conversation, together with what another tab may have added to it meanwhile. */
export async function save(conversation: Conversation): Promise<void> {
  await update<Conversation>(conversation.id, (stored) => merged(stored, conversation), store);
  tabs?.postMessage(conversation.id);
}

export async function remove(id: string): Promise<void> {
  await del(id, store);
  tabs?.postMessage(id);
}

export async function removeAll(): Promise<void> {
  await clear(store);
  tabs?.postMessage("");
}

/** Calls back when another tab has changed a conversation. */
export function onChange(callback: (id: string) => void): void {
  tabs?.addEventListener("message", (event) => callback(String(event.data)));
}

export interface Settings {
  language: "auto" | "ja" | "en";
  theme: "auto" | "light" | "dark";
}

const SETTINGS = "sioconv.settings";
const KEY = "sioconv.key";

export function loadSettings(): Settings {
  const defaults: Settings = { language: "auto", theme: "auto" };
  try {
    return { ...defaults, ...(JSON.parse(read("localStorage", SETTINGS) ?? "{}") as Partial<Settings>) };
  } catch {
    return defaults;
  }
}

export function saveSettings(settings: Settings): void {
  write("localStorage", SETTINGS, JSON.stringify(settings));
}

/** The API key: until the tab is closed, or longer where its owner says so. */
export function loadKey(): { key: string; kept: boolean } {
  const kept = read("localStorage", KEY);
  return { key: kept ?? read("sessionStorage", KEY) ?? "", kept: kept !== null };
}

export function saveKey(key: string, kept: boolean): void {
  write("localStorage", KEY, kept && key ? key : null);
  write("sessionStorage", KEY, !kept && key ? key : null);
}

type Area = "localStorage" | "sessionStorage";

/** A browser may forbid a page to keep anything; then a setting lasts until the page is closed. */
function read(area: Area, name: string): string | null {
  try {
    return window[area].getItem(name);
  } catch {
    return null;
  }
}

function write(area: Area, name: string, value: string | null): void {
  try {
    if (value === null) window[area].removeItem(name);
    else window[area].setItem(name, value);
  } catch {
    // See `read`.
  }
}
