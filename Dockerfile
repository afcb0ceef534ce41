# One image for every part: `stanchion` is its entry point, the command line says which part to be.
#
#   docker build -t stanchion .
#   docker run --rm stanchion --help
#
# A tag moves: for builds that can be repeated name the base by its digest, as your registry has it:
#
#   docker build --build-arg BASE=python:3.11-slim@sha256:… -t stanchion .

ARG BASE=python:3.11-slim

FROM ${BASE} AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY node ./node
RUN pip wheel --no-cache-dir --wheel-dir /wheels .

FROM ${BASE}
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links=/wheels stanchion
# /data and /certs belong to the user, and so do new volumes mounted there.
RUN useradd --system --uid 10001 --no-create-home stanchion \
    && install --directory --owner=stanchion --group=stanchion --mode=0700 /data /certs
USER stanchion
ENV PYTHONUNBUFFERED=1
STOPSIGNAL SIGTERM
ENTRYPOINT ["stanchion"]
CMD ["--help"]
