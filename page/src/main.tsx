import { render } from "preact";

import { App } from "./app";
import { HttpEngine } from "./http_engine";
import "./style.css";
import { Talk } from "./talk";

const place = document.getElementById("app")!;
// The server's paths stand beside the page, also behind a proxy that puts it into a folder.
const talk = new Talk(new HttpEngine(new URL(".", location.href).href), show);

function show(): void {
  render(<App talk={talk} />, place);
}

show();
void talk.start();
