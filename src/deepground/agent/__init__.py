"""An agent that carries out multi-step tasks with tools, over any OpenAI-compatible endpoint."""
