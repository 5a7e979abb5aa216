# The program on the CPU: docker build -f docker/cpu.Dockerfile -t cmd .
# Data, encoders and runs stay outside; folders that are written to have to belong to user 1000. An index is made and served in the same places:
#   alias cmd='docker run --rm -v "$PWD/data:/srv/cmd/data" -v "$PWD/encoders:/srv/cmd/encoders" -v "$PWD/runs:/srv/cmd/runs" -v "$PWD/photos:/srv/cmd/photos"'
#   cmd cmd train --config configs/flickr8k.toml
#   cmd cmd search index photos --out runs/photos.idx
#   cmd -p 127.0.0.1:8080:8080 -e CMD_TOKEN=secret cmd serve runs/photos.idx --address 0.0.0.0
FROM rust:1.88-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends nasm python3 python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN scripts/setup && scripts/install --prefix /opt/cmd

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends libstdc++6 && rm -rf /var/lib/apt/lists/* && useradd --create-home cmd
COPY --from=build /opt/cmd /opt/cmd
COPY --from=build /src/configs /srv/cmd/configs
COPY --from=build /src/assets /srv/cmd/assets
RUN chown -R cmd /srv/cmd
ENV PATH=/opt/cmd/bin:$PATH
USER cmd
WORKDIR /srv/cmd
ENTRYPOINT ["cmd"]
