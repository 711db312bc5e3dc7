// Builds the page: `node build.mjs [FOLDER]`. Without a folder, into the Python package.
import { cpSync, mkdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const folder = resolve(process.argv[2] ?? join(here, "../src/sioconv/serve/page"));
mkdirSync(folder, { recursive: true });
await build({
  absWorkingDir: here,
  entryPoints: { page: "src/main.tsx" },
  bundle: true,
  minify: true,
  format: "esm",
  target: ["chrome123", "firefox128", "safari17.5"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "inline", // the licences' notices stay with the code
  charset: "utf8",
  outdir: folder,
  logLevel: "warning",
});
cpSync(join(here, "index.html"), join(folder, "index.html"));
