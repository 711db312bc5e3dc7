# The server without root. The model comes from a volume:
#   docker build -t sioconv . && docker run -v "$PWD/runs/demo/model:/model:ro" -v states:/states -p 8000:8000 sioconv
FROM python:3.12-slim
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt "torch==2.13.0" ".[serve]" \
    && useradd --create-home --uid 10001 sioconv && mkdir /states && chown sioconv /states
USER sioconv
ENV NUMBA_CACHE_DIR=/tmp/numba
VOLUME /states
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=10s --timeout=3s \
    CMD python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/ready', timeout=2)"
STOPSIGNAL SIGTERM
ENTRYPOINT ["sioconv", "serve", "demo=/model", "--host", "0.0.0.0"]
CMD ["--store", "/states/states.db"]
