# MPD Studio on port 7860, as a user without rights.
#
#   docker build -t mpd-studio .
#   docker run -p 7860:7860 mpd-studio
#
# GPU: the same image, on a host with NVIDIA's container toolkit; the pack's model (13 GB) is
# downloaded at the first start, into the volume:
#   docker run --gpus all -p 7860:7860 -e MPD_PACK=tulu-2-7b -v mpd-cache:/home/user/.cache mpd-studio
#
# On x86-64 the package index's torch carries CUDA and also runs without a GPU. For a smaller,
# CPU-only image pass what pytorch.org names for CPU builds: --build-arg PIP_EXTRA_INDEX_URL=...
# An older driver or ZeroGPU's range: --build-arg TORCH='torch==2.8.0'.
ARG PYTHON_IMAGE=python:3.12-slim
FROM ${PYTHON_IMAGE}

# OpenMP's library: loops between the model's products share torch's threads through it.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 user && install -d -o user -g user /home/user/app
WORKDIR /home/user/app

# Slowest and rarest to change first: torch, then the other requirements, then the model, the app.
ARG TORCH="torch>=2.8,<=2.13.0"
ARG PIP_EXTRA_INDEX_URL=""
RUN pip install --no-cache-dir "$TORCH"
COPY requirements.txt ./
RUN pip install --no-cache-dir "$TORCH" -r requirements.txt

ENV HOME=/home/user \
    PYTHONUNBUFFERED=1 \
    GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    GRADIO_ANALYTICS_ENABLED=False \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER user

# The default base goes into the image (0.54 GB), so that a container starts without a network
# and in seconds. Other packs obtain theirs at the first start.
COPY --chown=user mpd_core ./mpd_core
COPY --chown=user assets ./assets
RUN MPD_PACK=smollm2-135m python -m mpd_core fetch
# Loops as this CPU runs them; on another kind they are compiled at the first start.
RUN python -c "from mpd_core.engine.preparing import prepare; prepare()"
COPY --chown=user app.py ./

EXPOSE 7860
# The long start period leaves time to download a large base.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['GRADIO_SERVER_PORT'] + '/', timeout=4)"]
CMD ["python", "app.py"]
