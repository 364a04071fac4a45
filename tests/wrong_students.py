"""Students that break one promise each; the name of the class is that of the test which must say so."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from c2s.students.base import FeatureStudent, to_multiple


class Patches(FeatureStudent):
    """Two convolutions."""

    classifier = "head"

    def __init__(self, dim):
        super().__init__()
        self.dim = dim
        self.backbone = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU())
        self.head = nn.Conv2d(16, dim, 1)

    def forward(self, images):
        return self.head(self.backbone(to_multiple(images, 4)))


class ItSaysWhatItIs(Patches):
    def __init__(self, dim):
        super().__init__(dim)
        self.dim = dim + 1


class ImagesOfAnySizeGetScoresOfAnyClasses(Patches):
    def classify(self, images, text):
        return super().classify(images, text).double()


class TheSameIsSaidTwice(Patches):
    def forward(self, images):
        return super().forward(images) + torch.rand(1)


class AnImageDoesNotDependOnThoseBesideIt(Patches):
    def forward(self, images):
        return super().forward(images - images.mean(0))


class AClassKeepsItsScoresWhereverItStands(Patches):
    def classify(self, images, text):
        return super().classify(images, text).cumsum(1)


class EveryParameterLearns(Patches):
    def __init__(self, dim):
        super().__init__(dim)
        self.unused = nn.Linear(2, 2)


class SavedAndMadeAgainItIsTheSame(Patches):
    def __init__(self, dim):
        super().__init__(dim)
        self.shift = torch.randn(dim, 1, 1)

    def forward(self, images):
        return super().forward(images) + self.shift


class ItsHeadLearnsFasterThanItsBackbone(Patches):
    classifier = "backbone.2"

    def __init__(self, dim):
        super().__init__(dim)
        self.backbone.append(self.head)
        del self.head

    def forward(self, images):
        return self.backbone(to_multiple(images, 4))


class ItsFeaturesComeFromItsClassifier(Patches):
    def forward(self, images):
        return F.normalize(super().forward(images), dim=1)
