# One image for every part: `stanchion` is its entry point, the command line says which part to be.
#
#   docker build -t stanchion .
#   docker run --rm stanchion --help

FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY node ./node
RUN pip wheel --no-cache-dir --wheel-dir /wheels .

FROM python:3.11-slim
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
