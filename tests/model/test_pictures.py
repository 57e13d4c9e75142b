import numpy as np
import torch

from multimae import pictures


def modalities(batch, size):
    return {
        "rgb": torch.randn(batch, 3, size, size),
        "depth": torch.randn(batch, 1, size, size),
        "semseg": torch.randint(5, (batch, size // 4, size // 4)),
    }


def test_prediction_sheet_shows_the_input_where_it_was_visible():
    images = modalities(1, 32)
    visible = {name: torch.tensor([[True, False, False, False]]) for name in images}
    predictions = {"depth": torch.full((1, 1, 32, 32), 1e3)}  # far behind everything: the end of the colour scale
    sheet = np.array(pictures.prediction_sheet(images, visible, predictions, patch_size=16)).astype(int)
    step = pictures.TILE + pictures.GAP
    tile = lambda row, column: sheet[pictures.CAPTION + row * step :, pictures.GAP + column * step :][
        : pictures.TILE, : pictures.TILE
    ]
    half = pictures.TILE // 2
    seen, predicted, truth = (tile(1, c) for c in range(3))
    assert (predicted[:half, :half] == truth[:half, :half]).all()
    assert len(np.unique(predicted[half:].reshape(-1, 3), axis=0)) == 1
    assert (seen[half:] == round(pictures.GREY * 255)).all()
    assert (tile(0, 1)[half:] == round(pictures.GREY * 255)).all()  # rgb is not predicted


def test_sheets_hold_every_sample():
    images = modalities(5, 32)
    labels = torch.randint(5, (5, 32, 32))
    block = pictures.TILE + pictures.GAP
    assert pictures.dense_sheet(images, labels, labels, pictures.class_map).height >= 2 * block
    assert pictures.classification_sheet(images, torch.arange(5), torch.arange(5), list("abcde")).width >= 5 * block


def test_neighbouring_classes_differ_in_colour():
    colours = pictures.palette(20)
    assert np.abs(colours[1:] - colours[:-1]).sum(1).min() > 0.2
