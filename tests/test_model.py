"""The classifier: networks, weights from files, schedule, averaging, checkpoints."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch

from arg import AUGMENT_PRESETS, NO_AUGMENT, FeatureConfig, OptimConfig, RunConfig
from callback import Averaging
from dataset import as_float
from model import (
    Classifier,
    build_network,
    load_classifier,
    make_optimizer,
    predict,
    rate,
    read_checkpoint,
    read_config,
    save_checkpoint,
)
from networks.weights import check_download
from system.errors import UserError
from transform import VIEWS, view
from util import generator

FEATURES = FeatureConfig(sample_rate=8000, clip_samples=4000, n_mels=32, frames=32, hop_samples=130, n_fft=1024)
RUN = RunConfig(
    model="resnet18",
    classes=("a", "b", "c"),
    class_counts=(1, 2, 3),
    features=FEATURES,
    augment=NO_AUGMENT,
    optim=OptimConfig(),
    fold=0,
    seed=0,
    folds_hash="x",
)


def waves(count: int = 4) -> torch.Tensor:
    return torch.randint(-9000, 9000, (count, 4000), generator=torch.Generator().manual_seed(0), dtype=torch.int16)


@pytest.fixture(scope="module")
def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier(RUN).eval()


@pytest.fixture(scope="module")
def checkpoint(model: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    save_checkpoint(path, model.config, model.state_dict(), finished=True)
    return path


def test_an_unknown_network_and_a_size_that_is_too_small_are_one_line() -> None:
    with pytest.raises(UserError, match="resnet18"):
        build_network("resnet81", 3, FEATURES)
    with pytest.raises(UserError, match="does not take 32x32"):
        build_network("vit_tiny_patch16_224", 3, FEATURES)


def test_a_checkpoint_is_plain_and_brings_the_classifier_back(model: Classifier, checkpoint: Path) -> None:
    torch.load(checkpoint, weights_only=True)  # raises on anything but plain types and tensors
    loaded = load_classifier(str(checkpoint))
    assert loaded.config == RUN
    with torch.inference_mode():
        assert torch.equal(loaded(waves()), model(waves()))


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("code from a file has run",))


def test_bad_checkpoints_are_named_and_run_nothing(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.ckpt"
    good = torch.load(checkpoint, weights_only=True)
    contents = {
        "no such checkpoint": None,
        "not a checkpoint": b"nonsense",
        "not a checkpoint of": pickle.dumps({"format": 1, "config": Evil()}, protocol=2),
        "format 99": {**good, "format": 99},
        "format 1": {**good, "format": 1},
        "damaged configuration": {**good, "config": {"model": "resnet18"}},
        "disagree": {**good, "state_dict": {}},
    }
    for message, content in contents.items():
        bad.unlink(missing_ok=True)
        if isinstance(content, bytes):
            bad.write_bytes(content)
        elif content is not None:
            torch.save(content, bad)
        with pytest.raises(UserError, match=message) as caught:
            load_classifier(bad)
        assert str(bad) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert "code" not in capsys.readouterr().out
    assert read_checkpoint(checkpoint)["finished"]


def test_a_checkpoint_from_before_the_change_of_speed(tmp_path: Path, checkpoint: Path) -> None:
    old = torch.load(checkpoint, weights_only=True)
    del old["config"]["augment"]["speed"]
    torch.save({**old, "format": 2}, tmp_path / "old.ckpt")
    assert load_classifier(tmp_path / "old.ckpt").config.augment.speed == 0
    old["config"]["augment"]["spede"] = 0.1
    torch.save(old, tmp_path / "old.ckpt")
    with pytest.raises(UserError, match=r"damaged configuration .*unknown keys \['spede'\]"):
        load_classifier(tmp_path / "old.ckpt")


def test_a_checkpoint_from_before_uneven_classes_is_of_the_same_run(tmp_path: Path, checkpoint: Path) -> None:
    old = torch.load(checkpoint, weights_only=True)
    del old["config"]["optim"]["balance"], old["config"]["optim"]["class_weights"]
    torch.save(old, tmp_path / "old.ckpt")
    assert read_config(tmp_path / "old.ckpt")["config"] == RUN


@pytest.mark.parametrize("ohem", [1.0, 0.5])
def test_a_clip_weighs_as_the_classes_in_its_target(ohem: float) -> None:
    """One clip of class a, one of c, one half a and half b; 6 clips of 1, 2 and 3: weights 2, 1 and 2/3."""
    optim = OptimConfig(class_weights=1.0, label_smoothing=0.1, ohem=ohem)
    model = Classifier(dataclasses.replace(RUN, optim=optim))
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[1, 0, 0], [0, 0, 1], [0.5, 0.5, 0]])
    smooth = 0.9 * target + 0.1 / 3
    each = -(smooth * logits.log_softmax(1)).sum(1) * torch.tensor([2, 2 / 3, 1.5])
    expected = each.mean() if ohem == 1 else each.topk(2).values.mean()
    torch.testing.assert_close(model.loss(logits, target), expected)
    assert not any("class_weights" in name for name in model.state_dict())


def test_weights_from_a_file_sum_a_three_channel_stem(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = timm.create_model("resnet18", num_classes=1000)
    path = tmp_path / "resnet18.pth"
    torch.save(source.state_dict(), path)
    net = build_network("resnet18", 3, FEATURES, str(path))
    stem = source.state_dict()["conv1.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(net.state_dict()["conv1.weight"], stem)
    weights = net.state_dict()
    assert torch.equal(weights["layer4.1.conv2.weight"], source.state_dict()["layer4.1.conv2.weight"])
    assert weights["fc.weight"].shape == (3, 512)


def test_weights_from_a_checkpoint_of_ours(model: Classifier, checkpoint: Path) -> None:
    net = build_network("resnet18", 5, FEATURES, str(checkpoint))
    assert torch.equal(net.state_dict()["conv1.weight"], model.net.state_dict()["conv1.weight"])


def test_weights_that_do_not_fit(tmp_path: Path, checkpoint: Path) -> None:
    text = tmp_path / "weights.pth"
    text.write_text("hello")
    foreign = tmp_path / "foreign.pth"
    torch.save({"alpha": torch.zeros(3)}, foreign)
    for name, path, message in (
        ("resnet18", tmp_path / "none.pth", "no such file"),
        ("resnet18", text, "not a file of weights"),
        ("resnet18", foreign, "holds no weights"),
        ("mobilenetv3_small_100", checkpoint, "mobilenetv3_small_100"),
    ):
        with pytest.raises(UserError, match=message):
            build_network(name, 3, FEATURES, str(path))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A server in the place of the hub that timm downloads from; it has nothing, but answers."""

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda repo, file: f"{address}/{repo}/{file}")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file: None)
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_pretrained_needs_a_server_that_answers(hub: ThreadingHTTPServer) -> None:
    check_download("resnet18")
    hub.server_close()
    hub.shutdown()
    with pytest.raises(UserError, match=r"cannot download resnet18 from here .* give it as --weights FILE"):
        check_download("resnet18", timeout_seconds=1)
    with pytest.raises(UserError, match="Invalid pretrained tag"):
        check_download("dla60_res2next.none")


def test_learning_rate_rises_then_falls_as_a_cosine() -> None:
    factors = [rate(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[10] == max(factors) == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_biases_and_normalisation_are_not_decayed(model: Classifier, name: str) -> None:
    optimizer = make_optimizer(model.net, OptimConfig(optimizer=name, weight_decay=0.1))
    for group in optimizer.param_groups:
        assert all((parameter.ndim > 1) == (group["weight_decay"] == 0.1) for parameter in group["params"])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.net.parameters()))


def test_augmentation_changes_training_and_never_evaluation() -> None:
    logits, features = [], []
    for augment in AUGMENT_PRESETS.values():
        torch.manual_seed(0)
        model = Classifier(dataclasses.replace(RUN, augment=augment), background=waves().flatten()).eval()
        with torch.inference_mode():
            logits.append(model(waves()))
            features.append(model.augmented(waves(), torch.eye(3)[[0, 1, 2, 0]], generator("cpu", 0))[0])
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    assert not torch.equal(features[0], features[1])
    assert not torch.equal(features[1], features[2])


def test_averaging_warms_up_and_then_takes_every_fourth_step() -> None:
    averaging = Averaging(0.99, torch.device("cpu"))
    averaged, current = [torch.tensor([0.0])], [torch.tensor([1.0])]
    for step, expected in ((0, 0.9), (8, 0.95)):  # decays 1/10 and 9/18
        assert averaging.should_update(step_idx=step)
        averaging._lerp(averaged, current, None)
        assert averaged[0].item() == pytest.approx(expected)
    taken = [step for step in range(10**6, 10**6 + 9) if averaging.should_update(step_idx=step)]
    assert taken == [10**6 + 3, 10**6 + 7]
    averaged = [torch.tensor([0.0])]
    averaging._lerp(averaged, current, None)
    assert averaged[0].item() == pytest.approx(1 - 0.99**4)
    assert not averaging.should_update(epoch_idx=3)


def test_predictions_are_the_views_probabilities(model: Classifier) -> None:
    torch.manual_seed(5)
    other = Classifier(dataclasses.replace(RUN, fold=1)).eval()
    parts = list(predict([model, other], [waves(3), waves(2)], VIEWS, torch.device("cpu")))
    assert [part.shape for part in parts] == [(2, 4, 3, 3), (2, 4, 2, 3)]
    with torch.inference_mode():
        expected = other(view(as_float(waves(3)), 2, 8000)).softmax(1).numpy()
    assert parts[0][1, 2] == pytest.approx(expected, abs=1e-6)


def test_a_configuration_is_read_without_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, RUN, {"w": torch.zeros(1000)}, True, training={"a": torch.ones(2)}, epoch=3, best={})
    whole = read_checkpoint(path)
    assert torch.equal(whole.pop("state_dict")["w"], torch.zeros(1000))
    assert torch.equal(whole.pop("training")["a"], torch.ones(2))
    assert read_config(path) == whole
    content = path.read_bytes()
    place = content.index(bytes(4000))  # the weights
    path.write_bytes(content[:place] + b"\1" + content[place + 1 :])
    assert read_config(path) == whole  # they are not looked at
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(path)
    place = content.index(b"folds_hash")
    path.write_bytes(content[:place] + b"\1" + content[place + 1 :])
    with pytest.raises(UserError, match="not a checkpoint"):
        read_config(path)
