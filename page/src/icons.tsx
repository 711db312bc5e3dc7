// Icons, drawn on a grid of 24. They are decoration: every button has words.

import type { JSX } from "preact";

const PATHS = {
  menu: "M4 7h16M4 12h16M4 17h16",
  plus: "M12 5v14M5 12h14",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  copy: "M9 9h10v10H9zM5 15V5h10",
  again: "M19 12a7 7 0 1 1-2-5M19 3v5h-5",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  down: "M12 4v12M7 11l5 5 5-5M5 20h14",
  up: "M12 16V4M7 9l5-5 5 5M5 20h14",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  gear: "M4 7h10M18 7h2M14 5v4M4 17h2M10 17h10M10 15v4",
  memory: "M4 5v15h16M4 8c5 0 5 9 16 9",
  close: "M6 6l12 12M18 6L6 18",
} as const;

export function Icon({ name }: { name: keyof typeof PATHS }): JSX.Element {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
