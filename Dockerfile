# The image for people who build images with an engine: the same files as those of `make image`, which needs none.
#
#   docker build --build-arg VERSION=v1.0.0 --tag registry.example/multus:v1.0.0 .
#
# The build stage runs on the machine's own architecture and compiles for that of the image.
#
# By digest, so that it is the same compiler for everybody; the version is that of the line toolchain in go.mod.
ARG GO_IMAGE=docker.io/library/golang:1.26.8@sha256:3c3e25a4da13fd0478eed2df1eb35a0e667094a7124d3993a6a1d30f71c17e79
FROM --platform=$BUILDPLATFORM $GO_IMAGE AS build
ARG TARGETARCH
WORKDIR /src
COPY . .
# The state of the checkout is not asked for: it may not be part of the context.
RUN go run ./tools/image -out /build -arch "$TARGETARCH" -buildvcs=false -rootfs /image

FROM scratch
ARG VERSION=dev
ARG REVISION=
ARG SOURCE=
LABEL org.opencontainers.image.title="multus" \
      org.opencontainers.image.description="Attaches more than one network to a Kubernetes pod" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE"
COPY --from=build /image/ /
USER 0:0
WORKDIR /
ENTRYPOINT ["/usr/src/multus-cni/bin/multus-daemon"]
