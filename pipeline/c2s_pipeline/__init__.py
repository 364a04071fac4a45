"""Build a teacher cache: views, CLIP tokens, pseudo masks, region tokens, written block by block with Dask."""
