// Markdown of a model as a fragment of the document. Whatever a model writes, nothing of it runs or loads anything.

import DOMPurify from "dompurify";
import { Marked } from "marked";

const TAGS = [
  "a", "blockquote", "br", "code", "del", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "strong", "table",
  "tbody", "td", "th", "thead", "tr", "ul",
];

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    // HTML in a model's text is text: it is shown as it is written.
    html: ({ text }) => escaped(text),
    // A picture would be loaded from elsewhere: its address is shown instead.
    image: ({ href, text }) => escaped(text ? `${text} (${href})` : href),
    // The page's own headings come first.
    heading({ tokens, depth }) {
      const level = Math.min(depth + 2, 6);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

const purifier = DOMPurify(window);
purifier.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
  // What scrolls sideways must be reached by the keyboard.
  if (node.tagName === "PRE" || node.tagName === "TABLE") node.setAttribute("tabindex", "0");
});

export function render(text: string): DocumentFragment {
  return purifier.sanitize(marked.parse(text, { async: false }), {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ["href", "start"],
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    RETURN_DOM_FRAGMENT: true,
  });
}

function escaped(text: string): string {
  const signs: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return text.replace(/[&<>"]/g, (sign) => signs[sign]!);
}
