"""Environment variables that look like credentials are told from those that a training needs."""

from __future__ import annotations

import pytest

from mvd_ds.files import looks_like_credential

CREDENTIALS = {
    "HF_TOKEN": "x",
    "HUGGING_FACE_HUB_TOKEN": "x",
    "MVD_DS_MYTOKEN": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "WANDB_API_KEY": "x",
    "OPENAI_APIKEY": "x",
    "MLFLOW_TRACKING_PASSWORD": "x",
    "DS_AUTH": "x",
    "GOOGLE_APPLICATION_CREDENTIALS": "x",
    "NCCL_X": "https://me:secret@host/",
    "MVD_DS_X": "ghp_0123456789abcdef",
    "MVD_DS_Y": "AKIA0123456789ABCDEF",
}
NEEDED = {
    "PATH": "/opt/sk-something-long/bin:/usr/bin",
    "HF_HOME": "/data/hf_models_of_everybody",
    "TOKENIZERS_PARALLELISM": "false",
    "NCCL_IB_PKEY": "0",
    "NCCL_SOCKET_IFNAME": "^lo,docker0",
    "PYTHONHASHSEED": "0",
    "CUDA_CACHE_PATH": "/tmp/x",
    "UCX_TLS": "rc,cuda_copy",
    "LD_LIBRARY_PATH": "/usr/lib:/usr/local/lib",
    "HTTPS_PROXY": "http://proxy:3128",
}


@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_credential_is_recognised(name: str) -> None:
    assert looks_like_credential(name, CREDENTIALS[name])


@pytest.mark.parametrize("name", NEEDED)
def test_a_needed_variable_is_none(name: str) -> None:
    assert not looks_like_credential(name, NEEDED[name])
