# A POSTGRES_IMAGE of docker-compose.yml for where no image can be pulled: Debian's PostgreSQL.
#   docker build -f deploy/debian/postgres.Dockerfile --build-arg BASE_IMAGE=… -t … deploy/debian
# BASE_IMAGE is an image of Debian. scripts/compose_smoke.sh makes one and shows how.
ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE}

ENV LANG=C.UTF-8 PGDATA=/var/lib/postgresql/data
# No cluster of the package's own: postgres-entrypoint.sh makes one in the volume.
RUN install -d /etc/postgresql-common \
    && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf \
    && apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o Dpkg::Options::=--force-confold postgresql \
    && rm -rf /var/lib/apt/lists/* \
    && ln -s /usr/lib/postgresql/*/bin /usr/local/lib/postgresql \
    && install -d -o postgres -g postgres -m 0700 "$PGDATA" \
    && install -d -o postgres -g postgres -m 2775 /var/run/postgresql
ENV PATH=/usr/local/lib/postgresql:$PATH

COPY postgres-entrypoint.sh /usr/local/bin/postgres-entrypoint.sh
VOLUME /var/lib/postgresql/data
EXPOSE 5432
STOPSIGNAL SIGINT
ENTRYPOINT ["postgres-entrypoint.sh"]
