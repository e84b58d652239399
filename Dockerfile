FROM python:3.13-slim

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY pgqueue pgqueue
COPY migrations migrations
RUN pip install --no-cache-dir -c constraints.txt .

RUN useradd --system --no-create-home worker
USER worker

STOPSIGNAL SIGTERM
ENTRYPOINT ["pgqueue"]
CMD ["--help"]
