"""Weights of the widespread PyTorch port give here what they give there.

The reference network is built from the published structure: pairs of convolutions with batch normalisation called ``double_conv``, four
levels ``down1`` to ``down4``, ``up1`` to ``up4`` from the coarsest, up-convolutions or bilinear interpolation with corners aligned.
"""

import numpy as np
import pytest
import torch
from pictures import discs
from safetensors.torch import save_file
from torch import nn

from napari_tally.cli import main
from napari_tally.core.convert import from_milesial, read_state_dict
from napari_tally.core.events import run_to_end
from napari_tally.core.images import as_image
from napari_tally.core.model_file import load_model
from napari_tally.core.plan import plan_training
from napari_tally.core.predict import predict
from napari_tally.core.samples import TrainingPair
from napari_tally.core.train import train
from napari_tally.settings import TrainingSettings


class Pair(nn.Module):
    def __init__(self, inputs, outputs, between=None, bias=False):
        super().__init__()
        layers = []
        for i, o in ((inputs, between or outputs), (between or outputs, outputs)):
            layers += [nn.Conv2d(i, o, 3, padding=1, bias=bias), nn.BatchNorm2d(o), nn.ReLU()]
        self.double_conv = nn.Sequential(*layers)

    def forward(self, x):
        return self.double_conv(x)


class Down(nn.Module):
    def __init__(self, *sizes, bias):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), Pair(*sizes, bias=bias))

    def forward(self, x):
        return self.maxpool_conv(x)


class Up(nn.Module):
    def __init__(self, inputs, outputs, bilinear, bias):
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        if not bilinear:
            self.up = nn.ConvTranspose2d(inputs, inputs // 2, 2, stride=2)
        self.conv = Pair(inputs, outputs, inputs // 2 if bilinear else None, bias)

    def forward(self, x, skip):
        return self.conv(torch.cat([skip, self.up(x)], dim=1))


class Out(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        return self.conv(x)


class Port(nn.Module):
    def __init__(self, channels, classes, bilinear, width=4, bias=False):
        super().__init__()
        w, f = width, 2 if bilinear else 1
        self.inc = Pair(channels, w, bias=bias)
        self.down1, self.down2, self.down3 = (Down(n * w, 2 * n * w, bias=bias) for n in (1, 2, 4))
        self.down4 = Down(8 * w, 16 * w // f, bias=bias)
        self.up1, self.up2, self.up3 = (Up(2 * n * w, n * w // f, bilinear, bias) for n in (8, 4, 2))
        self.up4 = Up(2 * w, w, bilinear, bias)
        self.outc = Out(w, classes)

    def forward(self, x):
        one = self.inc(x)
        two = self.down1(one)
        three = self.down2(two)
        four = self.down3(three)
        return self.outc(self.up4(self.up3(self.up2(self.up1(self.down4(four), four), three), two), one))


def port(*args, **kwargs):
    """Weights and running statistics that are no special case."""
    torch.manual_seed(3)
    network = Port(*args, **kwargs)
    for name, value in network.state_dict().items():
        if "running" in name or name.endswith(("1.weight", "4.weight")):
            value.uniform_(0.5, 1.5)
    return network.eval()


PICTURE = torch.rand(1, 1, 48, 80, generator=torch.manual_seed(0))


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("bias", [False, True], ids=["", "with the biases of old versions"])
def test_the_same_output(bilinear, bias):
    theirs = port(1, 3, bilinear, bias=bias)
    ours = from_milesial(theirs.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(ours.network(PICTURE), theirs(PICTURE), atol=1e-5, rtol=1e-5)
    assert ours.settings.architecture == ("unet-bilinear" if bilinear else "unet")
    assert (ours.settings.depth, ours.settings.base_width, ours.settings.classes) == (4, 4, 3)


@pytest.mark.parametrize("bilinear", [False, True])
def test_one_map_with_a_sigmoid_becomes_two_classes(bilinear):
    theirs = port(1, 1, bilinear)
    ours = from_milesial(theirs.state_dict()).network
    with torch.inference_mode():
        torch.testing.assert_close(ours(PICTURE).softmax(1)[:, 1:], theirs(PICTURE).sigmoid(), atol=1e-5, rtol=1e-5)


def test_images_are_divided_by_255_as_there():
    theirs = port(1, 2, False)
    model = from_milesial(theirs.state_dict())
    pixels = (255 * PICTURE[0, 0]).round().to(torch.uint8).numpy()
    mirrored = np.pad(pixels, 32, mode="reflect")  # prediction mirrors 32 px at the border
    with torch.inference_mode():
        wanted = theirs(torch.from_numpy(mirrored / 255).float()[None, None]).softmax(1)[0, :, 32:-32, 32:-32]
    np.testing.assert_allclose(run_to_end(predict(model, as_image(pixels)))[0], wanted, atol=1e-5)


def test_training_goes_on_from_there(rng):
    model = from_milesial(port(1, 2, True).state_dict())
    labels = discs((64, 64), (20, 20, 8), (45, 40, 8))
    pairs = [TrainingPair(as_image(((labels > 0) * 150 + rng.normal(50, 5, labels.shape)).astype(np.uint8)), labels)]
    plan = plan_training(pairs, TrainingSettings(steps=2, patch=32), model)
    assert plan.normalisation.statistics == "experiment"
    run_to_end(train(model, pairs, plan))
    assert model.record["start"] == "weights of the PyTorch U-Net port"


def test_the_command(tmp_path, capsys):
    theirs = port(3, 1, True)
    torch.save({"state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}, "mask_values": [0, 1]}, tmp_path / "a.pth")
    assert main(["convert", str(tmp_path / "a.pth"), "--out", str(tmp_path / "a.safetensors"), "--scale", "0.5"]) == 0
    assert "3 channel(s), 2 classes" in capsys.readouterr().out
    model = load_model(tmp_path / "a.safetensors")
    assert (model.scale, model.colour, model.window.tolist()) == (0.5, True, [[0, 255]] * 3)
    colour = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model.network(colour).softmax(1)[:, 1:], theirs(colour).sigmoid(), atol=1e-5, rtol=1e-5)
    assert main(["info", str(tmp_path / "a.safetensors")]) == 0
    assert "approximate and blended where tiles meet" in capsys.readouterr().out


def test_the_port_saves_its_mask_values_beside_the_tensors(tmp_path):
    torch.save(port(1, 2, False).state_dict() | {"mask_values": [0, 255]}, tmp_path / "a.pth")
    assert from_milesial(read_state_dict(tmp_path / "a.pth")).settings.classes == 2


class Evil:
    def __reduce__(self):
        return (print, ("this must never be printed",))


def test_safetensors_will_do_as_well(tmp_path):
    weights = port(1, 2, bilinear=False).state_dict()
    save_file({f"module.{name}": tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "a.safetensors")
    found = read_state_dict(tmp_path / "a.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    (tmp_path / "b.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        read_state_dict(tmp_path / "b.safetensors")


def test_files_that_would_run_code_are_refused(tmp_path, capsys):
    torch.save({"inc": Evil()}, tmp_path / "evil.pth")
    assert main(["convert", str(tmp_path / "evil.pth"), "--out", str(tmp_path / "m.safetensors")]) == 2
    said = capsys.readouterr()
    assert "cannot be read as weights alone" in said.err
    assert said.err.count("\n") == 1
    assert "never" not in said.out
    assert not (tmp_path / "m.safetensors").exists()


def test_other_weights(tmp_path):
    with pytest.raises(ValueError, match=r"no weights of the PyTorch U-Net port .* they begin with layer.weight"):
        from_milesial({"layer.weight": torch.zeros(3, 3)})
    weights = port(1, 2, False).state_dict()
    with pytest.raises(ValueError, match=r"merge\.3\.0\.weight has the shape \(1, 1\), and \(32, 64, 3, 3\) is wanted"):
        from_milesial(weights | {"up1.conv.double_conv.0.weight": torch.zeros(1, 1)})
    with pytest.raises(ValueError, match=r"Base width \(base_width\) is 100000"):
        from_milesial(weights | {"inc.double_conv.0.weight": torch.zeros(1).expand(100000, 1, 3, 3)})
    del weights["down2.maxpool_conv.1.double_conv.1.running_mean"]
    with pytest.raises(ValueError, match=r"The weights lack down2.maxpool_conv.1.double_conv.1.running_mean"):
        from_milesial(weights)
    (tmp_path / "a.pth").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="cannot be read as weights alone"):
        read_state_dict(tmp_path / "a.pth")
    with pytest.raises(ValueError, match="there is no such file"):
        read_state_dict(tmp_path / "b.pth")
    torch.save([1, 2], tmp_path / "c.pth")
    with pytest.raises(ValueError, match="holds no weights by name"):
        read_state_dict(tmp_path / "c.pth")
