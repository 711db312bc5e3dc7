import { createContext } from "preact";

import type { Talk } from "./talk";
import type { Words } from "./words";

/** What every component needs: what the page does, and its words. */
export const Context = createContext<{ talk: Talk; words: Words }>(null as never);
