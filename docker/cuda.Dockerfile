# The program on NVIDIA GPUs (Turing and later, a driver for CUDA 13, the NVIDIA container toolkit):
#   docker build -f docker/cuda.Dockerfile -t cmd:cuda .
#   docker run --rm --gpus all --ipc host -v "$PWD/data:/srv/cmd/data" -v "$PWD/encoders:/srv/cmd/encoders" \
#       -v "$PWD/runs:/srv/cmd/runs" cmd:cuda train --config configs/spokencoco.toml
FROM rust:1.88-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends nasm python3 python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# No device is seen while an image is built: the CUDA build of libtorch is named instead of found.
RUN python3 -m venv .venv && .venv/bin/pip install --no-cache-dir torch==2.13.0 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85 \
    && scripts/setup && scripts/install --prefix /opt/cmd

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends libstdc++6 && rm -rf /var/lib/apt/lists/* && useradd --create-home cmd
COPY --from=build /opt/cmd /opt/cmd
COPY --from=build /src/configs /srv/cmd/configs
COPY --from=build /src/assets /srv/cmd/assets
RUN chown -R cmd /srv/cmd
ENV PATH=/opt/cmd/bin:$PATH NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER cmd
WORKDIR /srv/cmd
ENTRYPOINT ["cmd"]
