"""A chain with LangChain: the server is an OpenAI endpoint like any other."""

import os
import sys

from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model=os.environ.get("SIOCONV_MODEL", "demo"), max_tokens=64, temperature=0.8)
prompt = ChatPromptTemplate.from_messages([("system", "短く答えてください。"), ("user", "{question}")])

if __name__ == "__main__":
    for part in (prompt | model).stream({"question": sys.argv[1]}):
        print(part.content, end="", flush=True)
    print()
