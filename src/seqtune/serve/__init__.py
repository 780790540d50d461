"""The server: a tuned model, or several over one base, behind the interface of OpenAI's clients.

- `settings`: every knob of the server, once
- `shelf`: which models there are
- `batcher`: requests that wait together are answered together
- `wire`: what requests and responses look like
- `answering`: from a request to jobs of the batcher and back
- `gate`: whom the server talks to, how much it takes and how long it waits
- `app`: the routes, put together
- `watching`: figures for Prometheus
- `running`: the process: listening, warming up, shutting down
- `page/`: the page at ``/``

Nothing is imported here: the command line's help does without FastAPI.
"""
