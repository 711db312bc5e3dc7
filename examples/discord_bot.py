"""A Discord bot: it answers those who name it, and each channel is one conversation that the server remembers."""

import os

import discord
from openai import AsyncOpenAI, NotFoundError

MODEL = os.environ.get("SIOCONV_MODEL", "demo")
LONGEST = 2000  # characters that Discord takes

server = AsyncOpenAI()
intents = discord.Intents.default()
intents.message_content = True
bot = discord.Client(intents=intents)
conversations: dict[int, str] = {}  # by channel


async def answer(channel: int, text: str) -> str:
    """The reply in a channel's conversation, which begins anew where the server has forgotten it."""
    if channel not in conversations:
        conversations[channel] = (await server.conversations.create()).id
    try:
        response = await server.responses.create(model=MODEL, input=text, conversation=conversations[channel])
    except NotFoundError:
        del conversations[channel]
        return await answer(channel, text)
    return response.output_text[:LONGEST] or "…"


@bot.event
async def on_message(message: discord.Message) -> None:
    """Answers a message that names the bot."""
    if message.author != bot.user and bot.user in message.mentions:
        await message.channel.send(await answer(message.channel.id, message.clean_content))


if __name__ == "__main__":
    bot.run(os.environ["DISCORD_TOKEN"])
