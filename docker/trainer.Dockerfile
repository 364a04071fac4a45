# Trains from a cache: no CLIP, no Dask, no cuML.
#   docker build -f docker/trainer.Dockerfile -t c2s-trainer .
#   docker run --gpus all --shm-size 8g -v CACHES:/work/cache -v RUNS:/work/runs c2s-trainer train --cache cache/coco.zarr
FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY c2s c2s
COPY cache/c2s_cache cache/c2s_cache
COPY pipeline pipeline
COPY constraints.txt ./
RUN python3 -m venv /opt/c2s && /opt/c2s/bin/pip install --no-cache-dir --constraint constraints.txt .

ENV PATH=/opt/c2s/bin:$PATH C2S_DATA=/data
WORKDIR /work
ENTRYPOINT ["c2s"]
