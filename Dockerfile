# docker build --tag umeml-pipeline --build-arg TORCH_INDEX=INDEX .   CPU only; INDEX from the selector on pytorch.org
# docker build --tag umeml-pipeline --build-arg TORCH=cuda .   with CUDA
# docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/data" umeml-pipeline slides/ genes.csv
# apptainer build umeml.sif docker-daemon://umeml-pipeline:latest
FROM python:3.11-slim
ARG TORCH=cpu
# For TORCH=cpu: the index of PyTorch's CPU wheels, as the selector on pytorch.org names it for pip and Linux.
ARG TORCH_INDEX
RUN apt-get update && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/umeml-pipeline
COPY . .
RUN if [ "$TORCH" = cpu ] && [ -n "$TORCH_INDEX" ]; then \
        PIP_INDEX_URL="$TORCH_INDEX" pip install --no-cache-dir --constraint constraints.txt torch torchvision; \
    fi \
    && pip install --no-cache-dir --constraint constraints.txt ".[demo,exchange,stain,s3]"
# Any user may run it (--user): caches go where everyone can write.
ENV HOME=/tmp
WORKDIR /data
ENTRYPOINT ["run_pipeline"]
