"""A viewer of slides with the maps of their explanations, served to a browser on this machine.

`openseadragon.min.js` is OpenSeadragon 5.0.1, built as its authors publish it; its licence (BSD) lies beside it.
"""
