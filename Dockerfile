# The binary `tocsin`, alone in a small image, run by a user of its own.

FROM rust:1.95-bookworm AS builder
WORKDIR /src
COPY . .
# The caches spare the dependencies from a second build; they are no part of an image, so the binary is copied out.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package tocsin --bin tocsin && cp target/release/tocsin /usr/local/bin/tocsin

FROM debian:bookworm-slim
# Certificates are for brokers over TLS; they bring OpenSSL's libraries along.
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --home-dir /var/lib/tocsin tocsin
COPY --from=builder /usr/local/bin/tocsin /usr/local/bin/tocsin
USER tocsin
WORKDIR /var/lib/tocsin
VOLUME /var/lib/tocsin
ENV TOCSIN_DATA_DIR=/var/lib/tocsin
# By bash, since there is no other client in the image.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["bash", "-c", "\
    exec 3<>/dev/tcp/127.0.0.1/${PORT:-8080} && printf 'GET /health HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3 \
    && read -r -t 2 _ status _ <&3 && [ \"$status\" = 200 ]"]
ENTRYPOINT ["tocsin"]
CMD ["serve"]
