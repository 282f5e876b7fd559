"""The dock widgets: one file, one widget. What computes lives in :mod:`napari_tally.core`.

Reading order: :mod:`~napari_tally.widgets.train` shows how a widget is made of a form
(:mod:`~napari_tally.widgets._form`), a job on a worker thread (:mod:`~napari_tally.widgets._job`) and
layers (:mod:`~napari_tally.widgets._layers`). The widgets of one viewer meet in
:mod:`~napari_tally.widgets._session`. Nothing here imports torch before a job runs.
"""
