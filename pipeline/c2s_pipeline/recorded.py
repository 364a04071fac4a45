"""Invariant: the request that made a cache is read off its manifest."""

from __future__ import annotations

from c2s_cache import Manifest
from c2s_pipeline.request import BuildRequest
from c2s_pipeline.teachers.recorded import recorded_spec


def recorded_request(manifest: Manifest) -> BuildRequest:
    """The request that made a cache, as far as the manifest tells: imported class embeddings are lost."""
    images, masks = dict(manifest.requests["images"]), dict(manifest.requests["masks"])
    taught, text = manifest.requests["teacher"], manifest.requests["text"]
    given, views = recorded_spec(manifest), manifest.requests["views"]
    augment = {"augment": views["augment"]} if "augment" in views else {}
    return BuildRequest.model_validate(
        {
            **augment,
            "teacher": given.name,
            "pretrained": given.pretrained,
            "dense_size": given.dense_size,
            "dense_features": given.dense_features,
            "precision": given.precision,
            "views": manifest.views,
            "view_size": manifest.view_size,
            "dense": manifest.dense,
            "backend": masks.pop("backend"),
            "masks": masks,
            "regions": manifest.requests["regions"],
            "prompts": text["names"],
            "templates": text.get("templates", "single"),
            "block_rows": images["block_rows"],
            "seed": images["seed"],
            "limit": manifest.rows,
            "batch_size": taught["batch_size"],
        }
    )
