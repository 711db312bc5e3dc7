"""VRChat's chat box: each line of standard input is answered there, by OSC over UDP."""

import os
import socket
import sys

from openai import OpenAI

MODEL = os.environ.get("SIOCONV_MODEL", "demo")
VRCHAT = (os.environ.get("VRCHAT_HOST", "127.0.0.1"), int(os.environ.get("VRCHAT_PORT", "9000")))
LONGEST = 144  # characters that the chat box shows


def padded(text: str) -> bytes:
    """An OSC string: UTF-8, then 1 to 4 zeros, up to a multiple of 4 bytes."""
    data = text.encode()
    return data + bytes(4 - len(data) % 4)


def show(text: str) -> None:
    """Puts a text into the chat box: at once (T), and without a sound (F)."""
    message = padded("/chatbox/input") + padded(",sTF") + padded(text[-LONGEST:])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as vrchat:
        vrchat.sendto(message, VRCHAT)


def main() -> None:
    """Talks until the input ends."""
    client, last = OpenAI(), None
    for line in sys.stdin:
        response = client.responses.create(model=MODEL, input=line.strip(), previous_response_id=last)
        last = response.id
        show(response.output_text)


if __name__ == "__main__":
    main()
