# seqtune in a container: how to build and use it is told in containers/README.md.
#
# The base must have Python 3.11 or newer with venv; another one: --build-arg BASE=IMAGE.
ARG BASE=python:3.11-slim-bookworm

# --- build: everything into one virtual environment -------------------------------------------------------------------
FROM ${BASE} AS build

# More arguments for pip. The plain PyTorch package for Linux on x86-64 brings several GB of CUDA libraries. For the CPU
# build, name the index of PyTorch's CPU wheels, which PyTorch's site tells under "Get Started" (Linux, Pip, CPU):
#     docker build --build-arg PIP_ARGS="--extra-index-url THE-CPU-INDEX" -t seqtune .
# constraints.txt holds torch at one version; of that version pip takes the CPU build where it finds one.
ARG PIP_ARGS=""

RUN python3 -m venv /opt/seqtune
WORKDIR /build

# The libraries first: a change of the source does not install them again.
COPY pyproject.toml constraints.txt ./
RUN python3 -c "import tomllib as t; print(*t.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > requirements.txt \
    && /opt/seqtune/bin/pip install --no-cache-dir ${PIP_ARGS} -c constraints.txt -r requirements.txt

COPY README.md LICENSE ./
COPY examples/support.json examples/
COPY src src
RUN /opt/seqtune/bin/pip install --no-cache-dir ${PIP_ARGS} --no-deps .

# --- the image --------------------------------------------------------------------------------------------------------
FROM ${BASE}

LABEL org.opencontainers.image.title="seqtune" \
      org.opencontainers.image.description="Fine-tune a language model on your own question-answer pairs, on the computer you have." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/seqtune/seqtune"

# The fast engine compiles its kernels on the machine that runs them, once, into /cache.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# /runs and /cache are open to any user, as /tmp is, so that `docker run --user` needs no user of that number in here.
RUN useradd --uid 1000 --no-create-home --home-dir /cache --shell /usr/sbin/nologin seqtune \
    && mkdir --mode 1777 /runs /cache \
    && mkdir /data

COPY --from=build /opt/seqtune /opt/seqtune

# USER: a name where the user has none, for the libraries that ask for it. HF_HOME: downloaded models. The rest: nobody
# is told about a run.
ENV PATH=/opt/seqtune/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/cache \
    USER=seqtune \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    HAMILTON_TELEMETRY_ENABLED=false \
    DO_NOT_TRACK=1

USER 1000:1000
VOLUME ["/runs", "/cache"]

# A run goes to runs/NAME of the working directory, thus into the volume /runs; its path reads the same outside.
WORKDIR /

ENTRYPOINT ["seqtune"]
CMD ["--help"]
