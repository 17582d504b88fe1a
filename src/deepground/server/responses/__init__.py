"""OpenAI's Responses API, stateless, as DeepSeek offers it."""
