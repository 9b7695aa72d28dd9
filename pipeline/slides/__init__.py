"""The stages over slides: tiling, embedding, thumbnails."""
