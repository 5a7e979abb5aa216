# The program on the CPU: docker build -f docker/cpu.Dockerfile -t cmd .
#   docker run --rm -v "$PWD/data:/work/data" -v "$PWD/runs:/work/runs" cmd train --config configs/flickr8k.toml
#   docker run --rm -p 127.0.0.1:8080:8080 -e CMD_TOKEN=secret -v "$PWD/photos.idx:/work/photos.idx" cmd serve photos.idx --address 0.0.0.0
FROM rust:1.88-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends nasm python3 python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN scripts/setup && scripts/install --prefix /opt/cmd

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends libstdc++6 && rm -rf /var/lib/apt/lists/* && useradd --create-home cmd
COPY --from=build /opt/cmd /opt/cmd
COPY --from=build /src/configs /work/configs
COPY --from=build /src/assets /work/assets
ENV PATH=/opt/cmd/bin:$PATH
USER cmd
WORKDIR /work
ENTRYPOINT ["cmd"]
