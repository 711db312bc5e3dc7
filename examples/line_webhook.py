"""A webhook for LINE's Messaging API; each user is one conversation that the server remembers."""

import base64
import hashlib
import hmac
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request, urlopen

from openai import OpenAI

SECRET, TOKEN = os.environ["LINE_SECRET"], os.environ["LINE_TOKEN"]
API = os.environ.get("LINE_API", "https://api.line.me")
client, latest = OpenAI(), dict[str, str]()  # the latest response of each user


class Webhook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        right = base64.b64encode(hmac.digest(SECRET.encode(), body, hashlib.sha256)).decode()
        signed = hmac.compare_digest(right.encode(), self.headers.get("X-Line-Signature", "").encode())
        self.send_response(200 if signed else 403)
        self.end_headers()
        for event in json.loads(body)["events"] if signed else []:
            if event["type"] == "message" and event["message"]["type"] == "text":
                self.reply(event["replyToken"], event["source"]["userId"], event["message"]["text"])

    def reply(self, token: str, user: str, text: str) -> None:
        model, before = os.environ.get("SIOCONV_MODEL", "demo"), latest.get(user)
        response = client.responses.create(model=model, input=text, previous_response_id=before)
        latest[user] = response.id
        said = {"replyToken": token, "messages": [{"type": "text", "text": response.output_text or "…"}]}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
        urlopen(Request(f"{API}/v2/bot/message/reply", json.dumps(said).encode(), headers), timeout=30).close()


if __name__ == "__main__":
    ThreadingHTTPServer(("", int(os.environ.get("PORT", "8080"))), Webhook).serve_forever()
