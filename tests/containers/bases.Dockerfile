# Stand-ins for the images that deploy/Dockerfile and docker-compose.yml begin with, one stage each, of Debian's packages.
# tests/support/base_images.py builds them where no registry can be asked.

ARG DEBIAN=aperture-tests/debian:trixie

FROM ${DEBIAN} AS packages
RUN apt-get -q update

# What the slim image of Python has: an interpreter in /usr/local/bin that can make virtual environments.
FROM ${DEBIAN} AS python
RUN ln -s /usr/bin/python3 /usr/local/bin/python && ln -s /usr/bin/python3 /usr/local/bin/python3
CMD ["python3"]

FROM packages AS redis
RUN apt-get -q -y install redis-server
CMD ["redis-server"]

# `resolve` in an upstream is there from 1.27.3 on, which is newer than what Debian 13 has.
# Its temporary files are where the image of nginx.org has them, or a read-only root would keep it from starting.
FROM packages AS nginx
RUN sed 's/trixie/forky/' /etc/apt/sources.list > /etc/apt/sources.list.d/forky.list \
    && echo 'APT::Default-Release "trixie";' > /etc/apt/apt.conf.d/20release \
    && apt-get -q update && apt-get -q -y install --target-release forky nginx \
    && rm -rf /var/lib/nginx && ln -s /var/cache/nginx /var/lib/nginx && mkdir -p /var/cache/nginx
CMD ["nginx", "-g", "daemon off;"]

FROM packages AS prometheus
RUN apt-get -q -y install prometheus && install -d -o 65534 -g 65534 /prometheus
USER 65534:65534
VOLUME /prometheus
ENTRYPOINT ["prometheus"]

# Not an image: compose's plugin, for a Docker that came without it.
FROM packages AS compose
RUN apt-get -q -y download docker-compose && dpkg-deb --extract docker-compose_*.deb /unpacked
