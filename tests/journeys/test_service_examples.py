"""dstack's documented service examples, each through a real engine.

What this computer can run is run and visited through the gateway; what needs a GPU or an image from
elsewhere parses, and its plan says in sentences what is missing.
"""

from __future__ import annotations

import socket
import sys
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from dstack_engine.errors import NoOffers
from dstack_engine.records.offers import OfferId
from dstack_engine.records.runs import RunStatus
from tests.journeys.conftest import ON_BOTH_HOSTS
from tests.journeys.engines import DOCKER, EngineProcess, until
from tests.journeys.visitors import Visitors, service

pytestmark = pytest.mark.slow

OWN_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def visitors(engine: EngineProcess) -> Iterator[Visitors]:
    """Visitors of the test's engine; whatever a failed test leaves running is ended."""
    yield Visitors(engine)
    engine.end_runs()


# --- examples that this computer cannot meet ---------------------------------------------------

LLAMA_TEMPLATE = "{% for message in messages %}[INST] {{ message['content'] }} [/INST]{% endfor %}"

#: What an example writes; the model that it publishes; what is said of a computer without a GPU.
BEYOND: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "vLLM": (
        """
python: "3.11"
env: [MODEL=NousResearch/Llama-2-7b-chat-hf]
commands:
  - pip install vllm
  - python -m vllm.entrypoints.openai.api_server --model $MODEL --port 8000
port: 8000
resources: {gpu: 80GB}
model: {format: openai, type: chat, name: NousResearch/Llama-2-7b-chat-hf}
""",
        "NousResearch/Llama-2-7b-chat-hf",
        ("asks 80GB of GPU memory; this computer has ",),
    ),
    "vLLM over many lines, its model in short": (
        """
python: 3.12
env:
  - HF_TOKEN
  - MODEL_ID=meta-llama/Meta-Llama-3.1-8B-Instruct
  - MAX_MODEL_LEN=4096
commands:
  - uv pip install vllm
  - |
    vllm serve $MODEL_ID
      --max-model-len $MAX_MODEL_LEN
      --tensor-parallel-size $DSTACK_GPUS_NUM
port: 8000
model: meta-llama/Meta-Llama-3.1-8B-Instruct
resources: {cpu: 1.., gpu: "80GB:2", disk: 1GB..}
""",
        "meta-llama/Meta-Llama-3.1-8B-Instruct",
        ("asks 2 GPUs with 80GB of memory each; this computer has ",),
    ),
    "vLLM, scaled with the load": (
        """
python: 3.12
env: [HF_TOKEN]
commands:
  - uv pip install vllm
  - vllm serve meta-llama/Meta-Llama-3.1-8B-Instruct --max-model-len 4096
port: 8000
resources: {gpu: 24GB}
replicas: 1..4
scaling: {metric: rps, target: 10}
""",
        None,
        ("asks 24GB of GPU memory; this computer has ",),
    ),
    "vLLM on AMD": (
        """
image: runpod/pytorch:2.4.0-py3.10-rocm6.1.0-ubuntu22.04
env: [HF_TOKEN, MODEL_ID=meta-llama/Meta-Llama-3.1-70B-Instruct, MAX_MODEL_LEN=126192]
commands:
  - export PATH=/opt/conda/envs/py_3.10/bin:$PATH
  - pip install "numpy<2"
  - vllm serve $MODEL_ID
    --max-model-len $MAX_MODEL_LEN
    --port 8000
port: 8000
spot_policy: auto
resources: {gpu: MI300X, disk: 1GB..}
model: meta-llama/Meta-Llama-3.1-70B-Instruct
""",
        "meta-llama/Meta-Llama-3.1-70B-Instruct",
        (
            "asks 1 MI300X GPU; this computer has ",
            "asks the image runpod/pytorch:2.4.0-py3.10-rocm6.1.0-ubuntu22.04; a plain process ",
        ),
    ),
    "vLLM on a TPU": (
        """
image: vllm/vllm-tpu:nightly
env: [MODEL_ID=meta-llama/Meta-Llama-3.1-8B-Instruct, HF_TOKEN]
commands:
  - vllm serve $MODEL_ID --tensor-parallel-size 4 --port 8000
port: 8000
spot_policy: auto
resources: {gpu: v5litepod-4}
model: {format: openai, type: chat, name: meta-llama/Meta-Llama-3.1-8B-Instruct}
""",
        "meta-llama/Meta-Llama-3.1-8B-Instruct",
        (
            "asks 1 v5litepod-4 GPU; this computer has ",
            "asks the image vllm/vllm-tpu:nightly; a plain process has no image",
        ),
    ),
    "TGI": (
        """
image: ghcr.io/huggingface/text-generation-inference:latest
env: [MODEL_ID=mistralai/Mistral-7B-Instruct-v0.1]
commands: [text-generation-launcher --port 8000 --trust-remote-code]
port: 8000
resources: {gpu: 24GB}
""",
        None,
        (
            "asks 24GB of GPU memory; this computer has ",
            "asks the image ghcr.io/huggingface/text-generation-inference:latest; a plain ",
        ),
    ),
    "TGI with its own chat template": (
        f"""
image: ghcr.io/huggingface/text-generation-inference:latest
env: [MODEL_ID=TheBloke/Llama-2-13B-chat-GPTQ]
commands: [text-generation-launcher --port 8000 --trust-remote-code --quantize gptq]
port: 8000
resources: {{gpu: 80GB}}
model:
  type: chat
  name: TheBloke/Llama-2-13B-chat-GPTQ
  format: tgi
  chat_template: "{LLAMA_TEMPLATE}"
  eos_token: "</s>"
""",
        "TheBloke/Llama-2-13B-chat-GPTQ",
        (
            "asks 80GB of GPU memory; this computer has ",
            "asks the image ghcr.io/huggingface/text-generation-inference:latest; a plain ",
        ),
    ),
    "Optimum TPU": (
        """
name: llama31-service-optimum-tpu
image: dstackai/optimum-tpu:llama31
env: [HUGGING_FACE_HUB_TOKEN, MODEL_ID=meta-llama/Meta-Llama-3.1-8B-Instruct]
commands: [text-generation-launcher --port 8000 --max-concurrent-requests 4]
port: 8000
spot_policy: auto
resources: {gpu: tpu-v5litepod-8}
model: {format: tgi, type: chat, name: meta-llama/Meta-Llama-3.1-8B-Instruct}
""",
        "meta-llama/Meta-Llama-3.1-8B-Instruct",
        (
            "asks 1 v5litepod-8 GPU; this computer has ",
            "asks the image dstackai/optimum-tpu:llama31; a plain process has no image",
        ),
    ),
    "Ollama": (
        """
image: ollama/ollama
commands:
  - ollama serve &
  - sleep 3
  - ollama pull mixtral
  - fg
port: 11434
resources: {gpu: 48GB..80GB}
model: mixtral
""",
        "mixtral",
        (
            "asks 48GB to 80GB of GPU memory; this computer has ",
            "asks the image ollama/ollama; a plain process has no image",
        ),
    ),
    "NIM, from a private registry": (
        """
image: nvcr.io/nim/meta/llama3-8b-instruct:latest
env: [NGC_API_KEY]
registry_auth:
  username: $oauthtoken
  password: ${{ env.NGC_API_KEY }}
port: 8000
model: meta/llama3-8b-instruct
spot_policy: auto
resources: {gpu: 24GB}
backends: [aws, azure, cudo, datacrunch, gcp, lambda, oci, tensordock]
""",
        "meta/llama3-8b-instruct",
        (
            "asks 24GB of GPU memory; this computer has ",
            "backends: aws, azure, cudo, datacrunch, gcp, lambda, oci, tensordock; its backend is ",
            "asks the image nvcr.io/nim/meta/llama3-8b-instruct:latest; a plain process has no ",
            "gives registry_auth; a plain process has no image to pull",
        ),
    ),
    "LoRAX": (
        """
image: ghcr.io/predibase/lorax:latest
env: [HF_TOKEN, MODEL_ID=mistralai/Mistral-7B-Instruct-v0.1]
commands:
  - cd /usr/src
  - lorax-launcher --port 8000 --model-id $MODEL_ID
port: 8000
resources: {gpu: 24GB, shm_size: 1GB}
""",
        None,
        (
            "asks 24GB of GPU memory; this computer has ",
            "asks the image ghcr.io/predibase/lorax:latest; a plain process has no image",
        ),
    ),
    "embeddings with Infinity": (
        """
image: michaelf34/infinity:latest
env: [MODEL_ID=BAAI/bge-small-en-v1.5]
commands: [infinity_emb --model-name-or-path $MODEL_ID --port 8000]
port: 8000
resources: {gpu: 16GB..}
""",
        None,
        (
            "asks at least 16GB of GPU memory; this computer has ",
            "asks the image michaelf34/infinity:latest; a plain process has no image",
        ),
    ),
    "embeddings with TEI": (
        """
image: ghcr.io/huggingface/text-embeddings-inference:latest
env: [MODEL_ID=thenlper/gte-base]
commands: [text-embeddings-router --port 8000]
port: 8000
resources: {gpu: 16GB..}
""",
        None,
        (
            "asks at least 16GB of GPU memory; this computer has ",
            "asks the image ghcr.io/huggingface/text-embeddings-inference:latest; a plain process ",
        ),
    ),
    "Mixtral on two GPUs": (
        """
python: "3.11"
env: [HF_HUB_ENABLE_HF_TRANSFER=1]
commands:
  - pip install vllm hf-transfer
  - python -m vllm.entrypoints.openai.api_server
    --model mistralai/Mixtral-8X7B-Instruct-v0.1
    --host 0.0.0.0
    --tensor-parallel-size $DSTACK_GPUS_NUM
port: 8000
resources: {gpu: 80GB:2, disk: 1GB..}
model: {type: chat, name: mistralai/Mixtral-8x7B-Instruct-v0.1, format: openai}
""",
        "mistralai/Mixtral-8x7B-Instruct-v0.1",
        ("asks 2 GPUs with 80GB of memory each; this computer has ",),
    ),
    "a range of GPU memory, shared memory": (
        """
python: "3.11"
commands: [python3 -m http.server]
port: 8000
resources: {cpu: 1.., memory: 1GB.., gpu: "40GB..80GB:4", shm_size: 1GB, disk: 1GB..}
""",
        None,
        ("asks 4 GPUs with 40GB to 80GB of memory each; this computer has ",),
    ),
    "A10G or A100": (
        "commands: [python3 -m http.server]\nport: 8000\nresources: {gpu: 'A10G,A100'}",
        None,
        ("asks 1 A10G or A100 GPU; this computer has ",),
    ),
    "a TPU by its vendor": (
        """
commands: [pip install torch_xla, python3 -m http.server]
port: 8000
resources: {gpu: {vendor: google, name: v5litepod-8}}
""",
        None,
        ("asks 1 v5litepod-8 GPU; this computer has ",),
    ),
    "a private image": (
        """
image: dstackai/my-private-image
registry_auth: {username: reader, password: "${{ env.NGC_API_KEY }}"}
env: [NGC_API_KEY]
commands: [python3 -m http.server]
port: 8000
""",
        None,
        (
            "asks the image dstackai/my-private-image; a plain process has no image",
            "gives registry_auth; a plain process has no image to pull",
        ),
    ),
    "backends and an instance type": (
        """
commands: [python3 -m http.server]
port: 8000
backends: [aws, gcp]
instance_types: [p3.8xlarge, p4d.24xlarge]
max_price: 1.0
""",
        None,
        (
            "backends: aws, gcp; its backend is local",
            "instance_types: p3.8xlarge, p4d.24xlarge; its type is process",
        ),
    ),
    "a spot machine in a region": (
        """
commands: [python3 -m http.server]
port: 8000
spot_policy: spot
regions: [eu-west-1, eu-west-2]
""",
        None,
        (
            "regions: eu-west-1, eu-west-2; its region is local",
            "spot_policy is spot; this computer is not a spot machine",
        ),
    ),
    "a volume": (
        "commands: [python3 -m http.server]\nport: 8000\nvolumes: [{name: my-volume, path: /data}]",
        None,
        ("asks the volume my-volume; this computer has no volumes",),
    ),
}

ENVIRONMENT = {"HF_TOKEN": "t", "HUGGING_FACE_HUB_TOKEN": "t", "NGC_API_KEY": "t"}


@pytest.mark.parametrize("example", BEYOND)
def test_what_is_beyond_this_computer_is_planned_with_its_reasons(
    engine: EngineProcess, example: str
) -> None:
    text, model, expected = BEYOND[example]
    wanted = service(text)
    assert (None if wanted.model is None else wanted.model.name) == model
    engine.start()
    plan = engine.client.plan(wanted)
    assert plan.offers == ()
    [refusal] = plan.refusals
    assert str(refusal.offer.id) == "local/process"
    assert len(refusal.reasons) == len(expected), refusal.reasons
    for sentence, beginning in zip(refusal.reasons, expected, strict=True):
        assert sentence.startswith(beginning)
    with pytest.raises(NoOffers) as refused:
        engine.client.submit(wanted, environment=ENVIRONMENT)
    assert f"    {refusal.reasons[0]}" in refused.value.message.splitlines()
    assert engine.client.runs(everything=True) == []
    assert engine.client.gateway().port is None


@pytest.mark.docker
def test_a_model_for_a_gpu_is_planned_for_each_way_to_run(
    engine: EngineProcess, python_image: str
) -> None:
    engine.settings = [f"default_image: {python_image}"]
    engine.start()
    text, _, expected = BEYOND["TGI"]
    plan = engine.client.plan(service(text))
    reasons = {str(refusal.offer.id): refusal.reasons for refusal in plan.refusals}
    assert plan.offers == ()
    assert reasons.keys() == {"local/docker", "local/process"}
    [told] = reasons["local/docker"]
    assert told.startswith(expected[0])


# --- examples that run here -------------------------------------------------------------------

HTTP_SERVER = """
name: http-server-service
commands:
  - echo "the page of $DSTACK_RUN_NAME" > index.html
  - python3 -m http.server --bind 127.0.0.1 $DSTACK_SERVICE_PORT
port: 8000
"""
ON_DOCKER = HTTP_SERVER.replace("--bind 127.0.0.1", "--bind 0.0.0.0")
PAGE = "the page of http-server-service\n"


def http_server(offer: OfferId, more: str = "") -> str:
    """Return the documented service, listening where the host looks for it."""
    return (ON_DOCKER if offer == DOCKER else HTTP_SERVER) + more


@ON_BOTH_HOSTS
def test_a_web_server_with_and_without_the_token(
    engine: EngineProcess, visitors: Visitors, host: str, offer: OfferId
) -> None:
    engine.start()
    name = visitors.submit(http_server(offer), offer).name
    assert visitors.get(name).text == PAGE
    assert visitors.get(name, by_name=True).text == PAGE
    for by_name in (True, False):
        refused = visitors.get(name, by_name=by_name, token=False)
        assert (refused.status_code, refused.headers["X-Dstack-Gateway"]) == (
            401,
            "invalid_api_key",
        )
        assert "token" in refused.json()["error"]["message"]
    older = {"Authentication": visitors.authorization["Authorization"]}
    assert httpx.get(visitors.url(name), headers=older).text == PAGE
    assert visitors.get(name, "/nothing").status_code == 404
    assert engine.client.stop(name).name == name
    assert engine.until_ended(name).status is RunStatus.TERMINATED
    assert visitors.get(name).status_code == 404


@ON_BOTH_HOSTS
def test_a_web_server_that_asks_for_no_token(
    engine: EngineProcess, visitors: Visitors, host: str, offer: OfferId
) -> None:
    engine.start()
    name = visitors.submit(http_server(offer, "auth: false\n"), offer).name
    assert visitors.get(name, token=False).text == PAGE
    assert visitors.get(name, by_name=True, token=False).text == PAGE


def test_a_command_that_names_its_port(engine: EngineProcess, visitors: Visitors) -> None:
    """It does not ask for a port of its own, so there is one replica, at the author's."""
    engine.start()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = f"python3 -m http.server {port}"
    text = f'python: "{OWN_PYTHON}"\nauth: false\ncommands:\n  - {command}\nport: {port}'
    name = visitors.submit(text).name
    assert "Directory listing" in visitors.get(name, token=False).text


@pytest.mark.docker
def test_a_web_server_in_an_image(
    engine: EngineProcess, visitors: Visitors, python_image: str
) -> None:
    engine.settings = []
    engine.start()
    text = f"image: {python_image}\ncommands:\n  - python3 -m http.server\nport: 8000\n"
    name = visitors.submit(text, DOCKER).name
    assert "Directory listing" in visitors.get(name).text


@ON_BOTH_HOSTS
def test_replicas_share_the_visitors(
    engine: EngineProcess, visitors: Visitors, host: str, offer: OfferId
) -> None:
    bind = "0.0.0.0" if offer == DOCKER else "127.0.0.1"
    text = f"""
env: {{GREETING: hello}}
commands:
  - echo "$GREETING from $(cat /proc/sys/kernel/hostname), process $$" > index.html
  - python3 -m http.server --bind {bind} $DSTACK_SERVICE_PORT
port: 8000
replicas: 2
"""
    engine.start()
    name = visitors.submit(text, offer).name
    visitors.until_ready(name, 2)
    answers = Counter(visitors.get(name).text for _ in range(40))
    assert len(answers) == 2
    assert all(answer.startswith("hello from ") for answer in answers)


def test_a_range_of_replicas_starts_with_the_fewest_and_from_none_with_a_request(
    engine: EngineProcess, visitors: Visitors
) -> None:
    engine.start()
    scaling = "scaling: {metric: rps, target: 10}\n"
    few = visitors.submit(
        HTTP_SERVER.replace("http-server-service", "few") + f"replicas: 1..4\n{scaling}"
    )
    none = visitors.submit(HTTP_SERVER + f"replicas: 0..2\n{scaling}")
    visitors.until_ready(few.name, 1)
    until(lambda: visitors.report(none.name), "the sleeping service to be published")
    view = engine.client.run(none.name)
    assert view.job is None
    assert visitors.get(none.name).text == PAGE
    assert len(visitors.until_ready(none.name, 1).replicas) == 1


def test_limits_of_requests(engine: EngineProcess, visitors: Visitors) -> None:
    limits = """
rate_limits:
- prefix: /api/auth/
  rps: 0.1
- rps: 0.1
  burst: 9
auth: false
"""
    engine.start()
    name = visitors.submit(HTTP_SERVER + limits).name
    assert visitors.get(name).text == PAGE
    answers = [visitors.get(name).status_code for _ in range(12)]
    assert answers == [200] * 9 + [429] * 3
    assert [visitors.get(name, "/api/auth/x").status_code for _ in range(2)] == [404, 429]


def test_limits_for_each_user(engine: EngineProcess, visitors: Visitors) -> None:
    limits = """
rate_limits:
- rps: 0.1
  key: {type: header, header: X-User}
auth: false
"""
    engine.start()
    name = visitors.submit(HTTP_SERVER + limits).name
    url = visitors.url(name)
    asked = [httpx.get(url, headers={"X-User": user}, timeout=60) for user in ("a", "b", "a")]
    assert [answer.status_code for answer in asked] == [200, 200, 429]
    assert float(asked[-1].headers["Retry-After"]) > 0
