"""The engine, without a window: numpy, scipy, scikit-image and torch, never Qt or napari.

Reading order, following an image from the microscope to the count. What is drawn: :mod:`~napari_tally.core.images` (arrays),
:mod:`~napari_tally.core.image_files`, :mod:`~napari_tally.core.lazy` (pixels that stay in their files),
:mod:`~napari_tally.core.channels` (which of them are looked at), :mod:`~napari_tally.core.intensity` (one scale for all),
:mod:`~napari_tally.core.label_files`, :mod:`~napari_tally.core.annotations`, :mod:`~napari_tally.core.points` (dots as annotation),
:mod:`~napari_tally.core.raster` (polygons on pixels),
:mod:`~napari_tally.core.cell_types` (several kinds of cells), :mod:`~napari_tally.core.weights` (the border weight
map), :mod:`~napari_tally.core.augment`, :mod:`~napari_tally.core.samples` (training patches).

The network: :mod:`~napari_tally.core.unet`, :mod:`~napari_tally.core.variants` and :mod:`~napari_tally.core.architectures` (its relatives,
and the registry), :mod:`~napari_tally.core.losses`, :mod:`~napari_tally.core.fold` (without batch normalisation),
:mod:`~napari_tally.core.model_file`, :mod:`~napari_tally.core.convert` (weights from elsewhere),
:mod:`~napari_tally.core.inflate` (a model for planes begins one for volumes).

Training: :mod:`~napari_tally.core.start` (which model to begin with), :mod:`~napari_tally.core.sizes` (how large are images shown to a
network?), :mod:`~napari_tally.core.plan`, :mod:`~napari_tally.core.explain` (the plan in words), :mod:`~napari_tally.core.estimate` (what
it will take), :mod:`~napari_tally.core.train`, :mod:`~napari_tally.core.budget` (its time), :mod:`~napari_tally.core.learner` (its steps),
:mod:`~napari_tally.core.validation` (what is held out), :mod:`~napari_tally.core.judge` (how good is it, and did training help?),
:mod:`~napari_tally.core.checkpoint` (going on after a crash), :mod:`~napari_tally.core.compare` (which network and loss?),
:mod:`~napari_tally.core.suggest` (which image to annotate next).

Prediction: :mod:`~napari_tally.core.tiles`, :mod:`~napari_tally.core.rescale`, :mod:`~napari_tally.core.strips` (a large picture, layer by
layer), :mod:`~napari_tally.core.blend` (networks that look at a whole tile), :mod:`~napari_tally.core.predict`,
:mod:`~napari_tally.core.instances`, :mod:`~napari_tally.core.bodies` (the same in three dimensions), :mod:`~napari_tally.core.volumes`,
:mod:`~napari_tally.core.find` (image and model to cells: the one path), :mod:`~napari_tally.core.prediction` (what was found),
:mod:`~napari_tally.core.batch` (many files), :mod:`~napari_tally.core.done` (which of them are counted),
:mod:`~napari_tally.core.cluster` (many processes).

The count: :mod:`~napari_tally.core.counting`, :mod:`~napari_tally.core.body_table`, :mod:`~napari_tally.core.large` (labels that do not fit
into memory), :mod:`~napari_tally.core.regions`, :mod:`~napari_tally.core.results`,
:mod:`~napari_tally.core.count_labels` (labels that there are already), :mod:`~napari_tally.core.outlines`,
:mod:`~napari_tally.core.overlay`, :mod:`~napari_tally.core.record`, :mod:`~napari_tally.core.report`, :mod:`~napari_tally.core.range` (is
the image like those that the model knows?), :mod:`~napari_tally.core.suspects` (which cells to look at), :mod:`~napari_tally.core.edit`
(mending them), :mod:`~napari_tally.core.review`, :mod:`~napari_tally.core.audit` (which windows to count by hand),
:mod:`~napari_tally.core.audit_file`, :mod:`~napari_tally.core.missed` (where something is seen but nothing predicted),
:mod:`~napari_tally.core.corrected_count` (what follows from them), :mod:`~napari_tally.core.overlap` (what true and predicted cells
share), :mod:`~napari_tally.core.matching` (which were found), :mod:`~napari_tally.core.metrics` (cells),
:mod:`~napari_tally.core.pixel_metrics` (pixels and pairs of them), :mod:`~napari_tally.core.type_scores` (types of cells).

Below all of them: :mod:`~napari_tally.core.events` (long work), :mod:`~napari_tally.core.devices`, :mod:`~napari_tally.core.files` (whole
or not at all), :mod:`~napari_tally.core.tables`, :mod:`~napari_tally.core.words`,
:mod:`~napari_tally.core.stated` (JSON that may have been changed), :mod:`~napari_tally.core.pickled` (weights, never programs),
:mod:`~napari_tally.core.journal` (what is drawn, on the disk at once).
"""

import os

# Threads of torch that wait for each other spin by default. Where other programs use the cores too, that made a
# training step of 0.1 s last 2.7 s; asleep they cost 0.15 s. It is read once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
