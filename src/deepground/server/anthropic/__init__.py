"""Anthropic's Messages API, as DeepSeek offers it."""
