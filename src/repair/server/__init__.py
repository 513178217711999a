"""The HTTP front door: an OpenAI-compatible server and its page; decides nothing about edits."""
