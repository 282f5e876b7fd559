"""The simulated nuclei, and the layers that napari shows under Open Sample."""

import numpy as np
import pytest
import skimage.data
from scipy import ndimage as ndi

from napari_tally.sample_data import mitosis_sample, nuclei_sample, simulate_nuclei, tissue_sample


def test_one_seed_gives_one_image():
    (image, labels), (again, same), (other, _) = simulate_nuclei(1), simulate_nuclei(1), simulate_nuclei(2)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(labels, same)
    assert not np.array_equal(image, other)
    assert (image.dtype, labels.dtype, image.shape, labels.shape) == (np.uint16, np.int32, (256, 256), (256, 256))


@pytest.mark.parametrize("options", [{}, {"n": 0}, {"n": 60, "touching": 1}, {"n": 5, "diameter": 60}, {"n": 8, "shape": (70, 90)}])
def test_as_many_nuclei_as_asked_each_in_one_piece(options):
    for seed in range(3):
        _, labels = simulate_nuclei(seed, **options)
        assert np.unique(labels).tolist() == list(range(options.get("n", 40) + 1))
        for nucleus, box in enumerate(ndi.find_objects(labels), start=1):
            assert ndi.label(labels[box] == nucleus)[1] == 1


def test_a_full_image_takes_no_more():
    _, labels = simulate_nuclei(0, shape=(60, 60), n=1000)
    assert 5 < labels.max() < 30


def test_nuclei_shine_where_their_labels_are():
    image, labels = simulate_nuclei(0)
    dark = np.median(image[labels == 0])
    brightness = ndi.median(image, labels, np.arange(1, labels.max() + 1))
    assert (brightness > dark + 20).all()
    assert brightness.std() > 0.2 * brightness.mean()
    outer = ndi.grey_dilation(labels, size=5)
    assert ((outer != labels) & (labels > 0)).sum() > 100, "some touch"


def test_no_two_nuclei_touch_where_none_should():
    _, labels = simulate_nuclei(0, touching=0)
    _, pieces = ndi.label(labels > 0, np.ones((3, 3)))
    assert pieces == labels.max()


def test_layers():
    (image, options, kind), (labels, more, other) = nuclei_sample()
    assert (kind, other) == ("image", "labels")
    assert labels.shape == image.shape
    assert options["scale"] == more["scale"]
    ((tissue, options, kind),) = tissue_sample()
    assert (kind, options["rgb"], tissue.shape[-1]) == ("image", True, 3)


def test_the_download_that_fails_says_so_in_a_sentence(monkeypatch):
    def no_network():
        raise ConnectionError("HTTPSConnectionPool(host=...): Max retries exceeded")

    monkeypatch.setattr(skimage.data, "human_mitosis", no_network)
    with pytest.raises(ConnectionError, match="The mitosis image is not on this computer yet and cannot be downloaded. Connect"):
        mitosis_sample()
