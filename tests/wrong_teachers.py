"""Teachers that break one promise each; the name of the class is that of the test which must say so."""

from __future__ import annotations

import threading

import numpy as np
import torch
from plain_teacher import Colours, Letters


class InfoIsWhatTheAttributesSay(Colours):
    def info(self):
        return super().info().model_copy(update={"mean": (0.1, 0.2, 0.3)})


class InfoHoldsNoPath(Colours):
    def info(self):
        return super().info().model_copy(update={"pretrained": "/home/me/weights.pt"})


class AnotherProcessLoadsTheSameByItsSpec(Colours):
    """Its weights are drawn and seeded by nothing."""

    def __init__(self, spec, device, pool):
        super().__init__(spec, device, pool)
        self._weights = torch.rand_like(self._weights)


class EmbeddingsAreFloat32ARowForEachImage(Colours):
    def embed_images(self, images, batch=None):
        return super().embed_images(images).double()


class DenseFeaturesAreFloat32AGridForEachImage(Colours):
    def dense(self, images):
        cls, dense = super().dense(images)
        return cls, dense.flatten(1, 2)


class ImagesDifferAndAreLeftAsTheyWere(Colours):
    def embed_images(self, images, batch=None):
        images //= 2
        return super().embed_images(images)


class BothPassesEmbedAnImageAlike(Colours):
    def dense(self, images):
        cls, dense = super().dense(images)
        return 2 * cls, dense


class AnImageDoesNotDependOnThoseBesideIt(Colours):
    def embed_images(self, images, batch=None):
        found = super().embed_images(images)
        return found - found.mean(0)


class RowsKeepTheirOrderHoweverABatchIsCut(Colours):
    def embed_images(self, images, batch=None):
        found = super().embed_images(images)
        return found.flip(0) if batch == 2 else found


class TheSameIsSaidTwiceAndByAnyNumberOfThreads(Colours):
    """It counts its questions."""

    asked = 0
    lock = threading.Lock()

    def embed_images(self, images, batch=None):
        with self.lock:
            type(self).asked += 1
            return super().embed_images(images) * (1 + 1e-6 * self.asked)


class APoolChangesNothing(Colours):
    def __init__(self, spec, device, pool):
        super().__init__(spec, device, pool)
        self._scale = 1 if pool is None else 1 + 1e-6

    def embed_images(self, images, batch=None):
        return super().embed_images(images) * self._scale


class _Spoken(Colours):
    words: type[Letters]

    @property
    def text(self):
        return self.words(self.device)


class EmbeddingsAreUnitVectorsOfTheTeachersWidth(_Spoken):
    class words(Letters):
        def embed_text(self, sentences):
            return 2 * super().embed_text(sentences)


class AloneItSaysWhatItSaysInTheWholeModel(Colours):
    @classmethod
    def load_text(cls, spec, device):
        other = Letters(device)
        other._weights = other._weights + 1e-6
        return other


class SentencesDifferAndDoNotDependOnThoseBesideThem(_Spoken):
    class words(Letters):
        def embed_text(self, sentences):
            found = super().embed_text(sentences)
            return torch.nn.functional.normalize(found + found.mean(0), dim=-1)


class SeveralThreadsMayAskAtOnce(_Spoken):
    class words(Letters):
        def embed_text(self, sentences):
            if threading.current_thread() is threading.main_thread():
                return super().embed_text(sentences)
            return torch.from_numpy(np.roll(super().embed_text(sentences).numpy(), 1, 0))
