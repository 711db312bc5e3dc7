// Builds the pages: `node build.mjs [FOLDER]`. Without a folder, into the Python package: the one that a server shows, and
// the one without a server.
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const root = resolve(process.argv[2] ?? join(here, "../src/sioconv"));
const common = {
  absWorkingDir: here,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["chrome123", "firefox128", "safari17.5"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "inline", // the licences' notices stay with the code
  charset: "utf8",
  logLevel: "warning",
};
// A static host sends no headers: the policy of the page that a server shows, as far as a page can give it itself.
const POLICY =
  "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; " +
  "img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'";

const served = join(root, "serve/page");
mkdirSync(served, { recursive: true });
await build({ ...common, entryPoints: { page: "src/main.tsx" }, outdir: served });
cpSync(join(here, "index.html"), join(served, "index.html"));

const alone = join(root, "publish/page/built");
mkdirSync(alone, { recursive: true });
await build({ ...common, entryPoints: { page: "src/browser/main.tsx", worker: "src/browser/worker.ts" }, outdir: alone });
await build({ ...common, format: "iife", entryPoints: { sw: "src/browser/service_worker.ts" }, outdir: alone });
const html = readFileSync(join(here, "index.html"), "utf8");
const meta = '<meta charset="utf-8">';
writeFileSync(
  join(alone, "index.html"),
  html.replace(meta, `${meta}\n    <meta http-equiv="Content-Security-Policy" content="${POLICY}">`),
);
cpSync(join(here, "NOTICE"), join(alone, "NOTICE"));
