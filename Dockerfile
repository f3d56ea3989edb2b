# scduet for CPUs: docker build -t scduet . && docker run --rm -v "$PWD:/data" scduet integrate cells.h5ad -o out.h5ad ...
# Not built yet. TORCH_INDEX: an index with torch for CPUs alone, which is much smaller.
FROM python:3.11-slim
ARG TORCH_INDEX=""
WORKDIR /opt/scduet
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY python python
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --constraint constraints.txt torch \
    && pip install --no-cache-dir --constraint constraints.txt ".[hub,multimodal]" \
    && useradd --create-home --uid 1000 scduet
USER 1000
WORKDIR /data
ENTRYPOINT ["scduet"]
