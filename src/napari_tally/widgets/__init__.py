"""The dock widgets: one file, one widget. What computes lives in :mod:`napari_tally.core`.

Reading order: :mod:`~napari_tally.widgets.train` shows how a widget is made of a form
(:mod:`~napari_tally.widgets._form`), a job on a worker thread (:mod:`~napari_tally.widgets._job`; its work is
:mod:`~napari_tally.widgets._training`, that of *Predict and count* :mod:`~napari_tally.widgets._counting`, that of
*Check the count* :mod:`~napari_tally.widgets._auditing`) and layers: what they mean
(:mod:`~napari_tally.widgets._layers`), where they lie (:mod:`~napari_tally.widgets._geometry`), what is drawn in them
(:mod:`~napari_tally.widgets._annotation`). The widgets of one viewer meet in :mod:`~napari_tally.widgets._session`.
Nothing here imports torch before a job runs.
"""
