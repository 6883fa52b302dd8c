# vmferry, for a source or a target:  docker build -t vmferry .
# The whole of it, with a Kafka of its own, is compose.yaml.
# Behind a mirror of PyPI, give your pip.conf, which no layer keeps:  docker build --secret id=pip,src=pip.conf .
FROM debian:bookworm AS build
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/vmferry && python3 -m venv /opt/build
WORKDIR /build
# First what seldom changes: the libraries, pinned, in a layer of their own.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
      > needed \
 && /opt/vmferry/bin/pip install --no-cache-dir -q -c constraints.txt -r needed \
 && /opt/build/bin/pip install --no-cache-dir -q 'hatchling>=1.27'
COPY schemas schemas
COPY engine engine
COPY producers producers
COPY consumers consumers
# What it needs is there by now: this step asks no registry.
RUN /opt/build/bin/pip wheel -q --no-deps --no-build-isolation --wheel-dir wheels . \
 && /opt/vmferry/bin/pip install -q --no-deps --no-index wheels/*.whl

FROM debian:bookworm
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends python3 qemu-utils \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 950 --user-group --home-dir /var/lib/vmferry --shell /usr/sbin/nologin vmferry \
 && install -d -o vmferry -g vmferry -m 750 /var/lib/vmferry /replicas \
 && install -d -m 755 /disks /etc/vmferry \
 && ln -s /opt/vmferry/bin/vmferry /usr/local/bin/vmferry
COPY --from=build /opt/vmferry /opt/vmferry
USER vmferry
# As for root outside of a container: the state lies where a volume is easily put.
ENV VMFERRY_STATE=/var/lib/vmferry
WORKDIR /var/lib/vmferry
ENTRYPOINT ["vmferry"]
CMD ["--help"]
