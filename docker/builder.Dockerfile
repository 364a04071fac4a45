# Builds caches on GPUs: RAPIDS cuML, open_clip, Dask.
#   docker build -f docker/builder.Dockerfile -t c2s-builder .
#   docker run --gpus all -v DATA:/data -v CACHES:/work/cache c2s-builder cache build --dataset coco-stuff
FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY c2s c2s
COPY cache/c2s_cache cache/c2s_cache
COPY pipeline pipeline
RUN python3 -m venv /opt/c2s && /opt/c2s/bin/pip install --no-cache-dir '.[gpu]'

ENV PATH=/opt/c2s/bin:$PATH C2S_DATA=/data
WORKDIR /work
ENTRYPOINT ["c2s"]
