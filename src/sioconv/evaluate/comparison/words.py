"""The words of the comparison's page, in both languages; the page has the same figures in each."""

WORDS: dict[str, dict[str, str]] = {
    "en": {
        "title": "Runs compared",
        "other": "日本語",
        "about": "All runs were measured on the same held-out text, that of {first}. Intervals hold 95 %: over "
        "documents for bits per byte, over sentences for pairs. A change is this run minus {first}, document by "
        "document. Where a source has fewer than two documents, there is no interval.",
        "differ": "Where a change's interval has no zero in it, the two runs differ by more than the choice of these "
        "documents.",
        "run": "run",
        "settings": "Where the recipes differ",
        "key": "key",
        "training": "Training",
        "parameters": "parameters",
        "tokens": "tokens read",
        "minutes": "minutes",
        "speed": "tokens/s",
        "bits": "Bits per byte (lower is better)",
        "text": "text",
        "interval": "95 %",
        "change": "change to {first}",
        "pairs": "Minimal pairs",
        "pairs_note": "How often the grammatical sentence of two is the likelier one. Chance is 50 %.",
        "right": "right",
        "curves": "Learning curves",
        "curves_note": "Against tokens, what the method is worth; against minutes, what one gets for the time.",
        "timescales": "What the heads remember",
        "timescales_note": "A dot for each head, at the number of tokens after which all but 1/e is forgotten.",
        "samples": "What they write",
        "samples_note": "The same beginnings, continued at the end of pretraining.",
        "none": "The runs share no prompt of `sample_prompts`.",
        "warnings": "To be kept in mind",
        "language": "language",
        "other_heldout": "{run} holds out another part of the text than {first}: it may have learned from what it is "
        "measured on",
        "more_text": "{run} has also read {source}: if that holds the held-out text of {first}, its figures are too "
        "good",
    },
    "ja": {
        "title": "学習の比較",
        "other": "English",
        "about": "どの学習も、{first} の評価用の文章(学習に使っていない文章)で測りました。"
        "区間は 95 % です。バイトあたりのビット数では文書について、最小対では文についての区間です。"
        "差は、文書ごとに、その学習の値から {first} の値を引いたものです。"
        "文書が 2 つより少ないソースがあれば、区間はありません。",
        "differ": "差の区間に 0 が入らなければ、文書の選び方では説明できない差があります。",
        "run": "学習",
        "settings": "レシピの違い",
        "key": "項目",
        "training": "学習の量",
        "parameters": "パラメータ数",
        "tokens": "読んだトークン数",
        "minutes": "分",
        "speed": "トークン/秒",
        "bits": "バイトあたりのビット数(小さいほどよい)",
        "text": "文章",
        "interval": "95 %",
        "change": "{first} との差",
        "pairs": "最小対",
        "pairs_note": "文法に合う文と合わない文のうち、合う文のほうを起こりやすいとした割合です。"
        "でたらめなら 50 % です。",
        "right": "正解",
        "curves": "学習曲線",
        "curves_note": "トークン数に対する曲線は手法のよさを、時間に対する曲線はかけた時間で得られるものを表します。",
        "timescales": "ヘッドの記憶の長さ",
        "timescales_note": "点は 1 つのヘッドです。記憶が 1/e まで薄れるのにかかるトークン数を示します。",
        "samples": "書いた文章",
        "samples_note": "同じ書き出しを、事前学習の終わりに続けて書いたものです。",
        "none": "共通の `sample_prompts` がありません。",
        "warnings": "注意",
        "language": "言語",
        "other_heldout": "{run} は、文章の別の部分を評価用に取り分けています。測る文章を学んだかもしれません。",
        "more_text": "{run} は {source} も読みました。そこに {first} の評価用の文章があれば、値は良すぎます。",
    },
}
PAGES = {"en": "index.html", "ja": "index.ja.html"}
