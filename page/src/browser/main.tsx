// The page without a server: the model runs in the browser.

import { render } from "preact";

import { App } from "../app";
import { OnnxEngine } from "../onnx_engine";
import "../style.css";
import { Talk } from "../talk";

const place = document.getElementById("app")!;
const base = new URL(".", location.href).href;
const engine = new OnnxEngine(base);
const talk = new Talk(engine, show);

function show(): void {
  render(<App talk={talk} />, place);
}

show();
void talk.start();
// Where a page may not keep files (http, but not localhost), it works with the network alone.
void navigator.serviceWorker?.register(new URL("sw.js", base)).catch(() => undefined);
