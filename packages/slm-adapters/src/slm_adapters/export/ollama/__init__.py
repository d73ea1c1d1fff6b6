"""The Modelfile, and chat templates in the form that Ollama reads."""
